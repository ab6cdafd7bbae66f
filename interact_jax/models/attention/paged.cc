// Attention of new tokens over keys and values in pages, on a CPU, float32: first the keys and
// values of the new tokens are written to their pages, then each new token attends to the tokens of
// its sequence up to itself.
//
// Keys lie in a page as [K][P], values as [P][K], so that logits of P keys and sums over K are
// vectors without sums across their lanes. Two ways through the pages: queries that go through the
// same pages (the tokens of a prompt, or sequences with a common prefix) lie side by side in lanes,
// as in native.cc, and a page is read once for all of them; the own pages of a single sequence are
// read for its r = H / G queries of a key head alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu.h"

namespace {

constexpr int kLine = 16;  // floats of a cache line
constexpr int kSideBySide = 64;  // queries in lanes, at most

struct Pool {
  float *keys, *values;
  int64_t pages, G, K, P;
  float* key(int64_t page, int64_t g) const { return keys + (page * G + g) * K * P; }
  float* value(int64_t page, int64_t g) const { return values + (page * G + g) * K * P; }
};

struct Tokens {
  const float* q;
  float* out;
  const int32_t *position, *table;
  int64_t B, L, H, G, K, M, r;
  int64_t window;
  float scale;

  int64_t at(int64_t b, int64_t l, int64_t head) const { return ((b * L + l) * H + head) * K; }
  const int32_t* pages(int64_t b) const { return table + b * M; }
  int32_t place(int64_t b, int64_t l) const { return position[b * L + l]; }
  int64_t first(int64_t place) const { return std::max<int64_t>(0, place - window + 1); }
};

// The softmax so far of `rows` queries: with a padding to whole vectors.
struct State {
  int rows;
  float *q, *sum, *largest, *total;  // q and sum: [rows][K]
};

float most(Vector x) {
  float result = x[0];
  for (int n = 1; n < kLanes; ++n) result = std::max(result, x[n]);
  return result;
}

float add_lanes(Vector x) {
  float result = 0;
  for (int n = 0; n < kLanes; ++n) result += x[n];
  return result;
}

// One page for all the rows; row i sees its keys [first[i], end[i]), or all of them where first is
// null. qT is q as [K][rows]; logits and keep are scratch.
void visit_together(const State& s, const Pool& pool, const float* key, const float* value,
                    const int32_t* first, const int32_t* end, const float* qT, float* logits,
                    float* keep) {
  const int rows = s.rows, P = static_cast<int>(pool.P), K = static_cast<int>(pool.K);
  multiply(P, K, rows, key, 1, P, qT, rows, logits, rows, false);
  if (first != nullptr)
    for (int i = 0; i < rows; i += kLanes)
      for (int j = 0; j < P; ++j) {
        const Integers seen = (load(first + i) <= j) & (load(end + i) > j);
        store(logits + j * rows + i, select(seen, load(logits + j * rows + i), splat(-kInfinity)));
      }
  absorb(P, rows, logits, s.largest, s.total, keep, s.sum, K);
  multiply(rows, P, K, logits, 1, rows, value, K, s.sum, K, true);
}

// sum[i][v] += sum_j weights[i][j] value[j][v] for R rows and V vectors, over the keys [first, end).
// Even and odd keys have sums of their own: one addition need not wait for the one before.
template <int R, int V>
inline void add_values(const float* weights, int P, const float* value, int K, int first, int end,
                       float* sum) {
  Vector even[R][V], odd[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) even[i][v] = load(sum + i * K + v * kLanes), odd[i][v] = Vector{};
  int j = first;
  for (; j + 2 <= end; j += 2)
    for (int v = 0; v < V; ++v) {
      const Vector a = load(value + j * K + v * kLanes), b = load(value + (j + 1) * K + v * kLanes);
      for (int i = 0; i < R; ++i) {
        even[i][v] += weights[i * P + j] * a;
        odd[i][v] += weights[i * P + j + 1] * b;
      }
    }
  if (j < end)
    for (int v = 0; v < V; ++v)
      for (int i = 0; i < R; ++i)
        even[i][v] += weights[i * P + j] * load(value + j * K + v * kLanes);
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) store(sum + i * K + v * kLanes, even[i][v] + odd[i][v]);
}

// One page for R rows of one sequence, from `row` on, which all see its keys [first, end).
template <int R>
void visit_alone(const State& s, int row, const Pool& pool, const float* key, const float* value,
                 int first, int end, float* weights) {
  const int P = static_cast<int>(pool.P), K = static_cast<int>(pool.K);
  const float* q = s.q + row * K;
  for (int k = 0; k < K; k += 2) {  // the values come while the logits are computed
    __builtin_prefetch(value + k * P);
    __builtin_prefetch(value + k * P + kLine);
    __builtin_prefetch(value + k * P + 2 * kLine);
    __builtin_prefetch(value + k * P + 3 * kLine);
  }
  float highest[R];
  for (int i = 0; i < R; ++i) highest[i] = s.largest[row + i];
  for (int j = 0; j < P; j += 2 * kLanes) {
    Vector even[R][2], odd[R][2];
    for (int i = 0; i < R; ++i) even[i][0] = even[i][1] = odd[i][0] = odd[i][1] = Vector{};
    const float* from = key + j;
    for (int k = 0; k < K; k += 2) {
      const Vector a = load(from + k * P), b = load(from + k * P + kLanes);
      const Vector c = load(from + k * P + P), d = load(from + k * P + P + kLanes);
      for (int i = 0; i < R; ++i) {
        const Vector x = splat(q[i * K + k]), y = splat(q[i * K + k + 1]);
        even[i][0] += x * a, even[i][1] += x * b;
        odd[i][0] += y * c, odd[i][1] += y * d;
      }
    }
    for (int i = 0; i < R; ++i)
      for (int half = 0; half < 2; ++half)
        store(weights + i * P + j + half * kLanes, even[i][half] + odd[i][half]);
  }
  if (first > 0 || end < P)
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < P; ++j)
        if (j < first || j >= end) weights[i * P + j] = -kInfinity;
  for (int i = 0; i < R; ++i) {
    float* w = weights + i * P;
    Vector top = splat(highest[i]), added{};
    for (int j = 0; j < P; j += kLanes) top = larger(load(w + j), top);
    const float old = highest[i];
    highest[i] = most(top);
    for (int j = 0; j < P; j += kLanes) {
      const Vector weight = exp2(load(w + j) - splat(highest[i]));
      store(w + j, weight);
      added += weight;
    }
    const float factor = exp2(splat(old - highest[i]))[0];
    s.largest[row + i] = highest[i];
    s.total[row + i] = s.total[row + i] * factor + add_lanes(added);
    if (factor != 1.0f)
      for (int c = 0; c < K; c += kLanes)
        store(s.sum + (row + i) * K + c, load(s.sum + (row + i) * K + c) * factor);
  }
  int c = 0;
  for (; c + 4 * kLanes <= K; c += 4 * kLanes)
    add_values<R, 4>(weights, P, value + c, K, first, end, s.sum + row * K + c);
  for (; c < K; c += kLanes)
    add_values<R, 1>(weights, P, value + c, K, first, end, s.sum + row * K + c);
}

void visit_alone(const State& s, int row, int64_t r, const Pool& pool, const float* key,
                 const float* value, int first, int end, float* weights) {
  int64_t h = 0;
  for (; h + 4 <= r; h += 4) visit_alone<4>(s, row + h, pool, key, value, first, end, weights);
  for (; h + 2 <= r; h += 2) visit_alone<2>(s, row + h, pool, key, value, first, end, weights);
  for (; h < r; ++h) visit_alone<1>(s, row + h, pool, key, value, first, end, weights);
}

// Some tokens whose queries of one key head lie side by side. They go through the first `common`
// pages of the first one's table together, and each through the rest of its own.
struct Block {
  std::vector<int64_t> rows;  // b, where L = 1; else the one b
  int64_t l0 = 0, tokens = 0, common = 0;
};

void attend(const Tokens& t, const Pool& pool, const Block& block, int64_t g) {
  const bool prompt = t.L > 1;
  const int64_t K = t.K, P = pool.P, r = t.r;
  const int count = static_cast<int>(block.tokens * r);
  const bool together = block.common > 0;  // then rows are padded to whole vectors
  const int rows = together ? (count + kLanes - 1) / kLanes * kLanes : count;
  auto token = [&](int64_t i) {
    return prompt ? std::pair<int64_t, int64_t>(block.rows[0], block.l0 + i)
                  : std::pair<int64_t, int64_t>(block.rows[i], 0);
  };
  float* memory = scratch(rows * (3 * K + P + 5) + 4 * P);
  State s{rows, memory, memory + rows * K, memory + 3 * rows * K, memory + rows * (3 * K + 1)};
  float *qT = memory + 2 * rows * K, *keep = memory + rows * (3 * K + 2);
  auto* first = reinterpret_cast<int32_t*>(memory + rows * (3 * K + 3));
  auto* end = reinterpret_cast<int32_t*>(memory + rows * (3 * K + 4));
  float *logits = memory + rows * (3 * K + 5), *weights = logits + rows * P;
  std::fill_n(s.q, (together ? 3 : 2) * rows * K, 0.0f);  // q, sum and qT
  std::fill_n(s.largest, rows, kLeast);
  std::fill_n(s.total, rows, 0.0f);
  int64_t earliest = std::numeric_limits<int32_t>::max(), latest = 0;
  for (int64_t i = 0; i < block.tokens; ++i) {
    const auto [b, l] = token(i);
    earliest = std::min<int64_t>(earliest, t.place(b, l));
    latest = std::max<int64_t>(latest, t.place(b, l));
    for (int64_t h = 0; h < r; ++h) {
      const float* from = t.q + t.at(b, l, g * r + h);
      float* to = s.q + (i * r + h) * K;
      for (int64_t k = 0; k < K; ++k) {
        to[k] = from[k] * (t.scale * kLog2e);
        if (together) qT[k * rows + i * r + h] = to[k];
      }
    }
  }
  if (together) {
    const int32_t* pages = t.pages(block.rows[0]);
    for (int64_t p = t.first(earliest) / P; p < block.common; ++p) {
      const bool all = (p + 1) * P <= earliest + 1 && t.first(latest) <= p * P;
      if (!all)
        for (int i = 0; i < rows; ++i) {
          const auto [b, l] = token(std::min<int64_t>(i / r, block.tokens - 1));
          const int64_t place = t.place(b, l);
          first[i] = static_cast<int32_t>(t.first(place) - p * P);
          end[i] = i < count ? static_cast<int32_t>(place + 1 - p * P) : 0;
        }
      visit_together(s, pool, pool.key(pages[p], g), pool.value(pages[p], g),
                     all ? nullptr : first, end, qT, logits, keep);
    }
  }
  if (!prompt)
    for (int64_t i = 0; i < block.tokens; ++i) {
      const int64_t b = block.rows[i], place = t.place(b, 0), least = t.first(place);
      for (int64_t p = std::max(block.common, least / P); p <= place / P; ++p)
        visit_alone(s, static_cast<int>(i * r), r, pool, pool.key(t.pages(b)[p], g),
                    pool.value(t.pages(b)[p], g),
                    static_cast<int>(std::max<int64_t>(0, least - p * P)),
                    static_cast<int>(std::min<int64_t>(P, place + 1 - p * P)), weights);
    }
  for (int64_t i = 0; i < block.tokens; ++i) {
    const auto [b, l] = token(i);
    for (int64_t h = 0; h < r; ++h) {
      const int64_t row = i * r + h;
      const float over = 1.0f / s.total[row];
      float* to = t.out + t.at(b, l, g * r + h);
      for (int64_t c = 0; c < K; c += kLanes) store(to + c, load(s.sum + row * K + c) * over);
    }
  }
}

// Sequences whose tables begin with the same pages go together through those that all of them see
// to the end.
std::vector<Block> blocks_of_sequences(const Tokens& t, int64_t P) {
  std::vector<int64_t> order;
  for (int64_t b = 0; b < t.B; ++b)
    if (t.place(b, 0) >= 0) order.push_back(b);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return t.pages(a)[0] < t.pages(b)[0]; });
  const int64_t most = std::max<int64_t>(1, kSideBySide / t.r);
  auto whole = [&](int64_t b) {  // pages seen to their end and from their beginning
    return t.first(t.place(b, 0)) > 0 ? 0 : (t.place(b, 0) + 1) / P;
  };
  std::vector<Block> blocks;
  for (int64_t b : order) {
    if (!blocks.empty()) {
      Block& last = blocks.back();
      const int64_t a = last.rows[0];
      int64_t common = std::min(whole(b), last.tokens > 1 ? last.common : whole(a));
      int64_t same = 0;
      while (same < common && t.pages(a)[same] == t.pages(b)[same]) ++same;
      // Leaving the rest of a longer common prefix to each alone would read it many times.
      if (same > 0 && last.tokens < most && (last.tokens == 1 || 2 * same >= last.common)) {
        last.rows.push_back(b), ++last.tokens, last.common = same;
        continue;
      }
    }
    blocks.push_back(Block{{b}, 0, 1, 0});
  }
  return blocks;
}

std::vector<Block> blocks_of_prompts(const Tokens& t, int64_t P) {
  std::vector<Block> blocks;
  const int64_t most = std::max<int64_t>(1, kSideBySide / t.r);
  for (int64_t b = 0; b < t.B; ++b) {
    int64_t tokens = 0;
    while (tokens < t.L && t.place(b, tokens) >= 0) ++tokens;
    for (int64_t l = 0; l < tokens; l += most) {
      const int64_t count = std::min(most, tokens - l);
      blocks.push_back(Block{{b}, l, count, t.place(b, l + count - 1) / P + 1});
    }
  }
  return blocks;
}

// Whether all pages up to the tokens' places are pages of the pool: nothing else is ever touched.
bool within(const Tokens& t, const Pool& pool) {
  for (int64_t b = 0; b < t.B; ++b) {
    int64_t latest = -1;
    for (int64_t l = 0; l < t.L; ++l) latest = std::max<int64_t>(latest, t.place(b, l));
    if (latest >= t.M * pool.P) return false;
    for (int64_t m = 0; latest >= 0 && m <= latest / pool.P; ++m)
      if (t.pages(b)[m] < 0 || t.pages(b)[m] >= pool.pages) return false;
  }
  return true;
}

ffi::Error attend_pages(ffi::ThreadPool pool, Array q, Array k, Array v, Whole position,
                        Whole table, Whole layer, Whole window, Array, Array, Result out,
                        Result keys, Result values, float scale) try {
  const auto size = keys->dimensions();  // N pages G K P
  const int64_t n = layer.typed_data()[0], of_layer = size[1] * size[2] * size[3] * size[4];
  const Pool pages{keys->typed_data() + n * of_layer, values->typed_data() + n * of_layer,
                   size[1], size[2], size[3], size[4]};
  const auto d = q.dimensions();
  Tokens t{q.typed_data(), out->typed_data(), position.typed_data(), table.typed_data(),
           d[0], d[1], d[2], pages.G, d[3], table.dimensions()[1], d[2] / pages.G,
           window.typed_data()[0], scale};
  if (!within(t, pages))
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "attention: a table lists no such page");
  for (int64_t b = 0; b < t.B; ++b)
    for (int64_t l = 0; l < t.L; ++l) {
      const int64_t place = t.place(b, l);
      if (place < 0) {
        std::fill_n(t.out + t.at(b, l, 0), t.H * t.K, 0.0f);
        continue;
      }
      const int64_t page = t.pages(b)[place / pages.P], slot = place % pages.P;
      for (int64_t g = 0; g < t.G; ++g) {
        const int64_t from = ((b * t.L + l) * t.G + g) * t.K;
        float* key = pages.key(page, g) + slot;
        for (int64_t c = 0; c < t.K; ++c) key[c * pages.P] = k.typed_data()[from + c];
        std::copy_n(v.typed_data() + from, t.K, pages.value(page, g) + slot * t.K);
      }
    }
  const auto blocks = t.L > 1 ? blocks_of_prompts(t, pages.P) : blocks_of_sequences(t, pages.P);
  const auto count = static_cast<int64_t>(blocks.size());
  parallel(pool, count * t.G, [&](int64_t task) {  // the last tokens of a prompt see the most
    attend(t, pages, blocks[count - 1 - task / t.G], task % t.G);
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

// y[M][F] = x[M][D] w[layer][D][F], for few rows M: the weights of one layer are read once, in
// place, where a product of a slice would first copy them.
constexpr int64_t kDepth = 256;  // rows of a panel of weights: it stays in the second-level cache

void few_rows(int64_t M, int64_t D, int64_t F, const float* x, const float* w, float* y,
              int64_t from, int64_t to) {
  const int64_t width = to - from, whole = width / kLanes * kLanes;
  for (int64_t m = 0; m < M; ++m) std::fill_n(y + m * F + from, width, 0.0f);
  for (int64_t d = 0; d < D; d += 4) {
    const int64_t deep = std::min<int64_t>(4, D - d);
    const float* row = w + d * F + from;
    for (int64_t m = 0; m < M; ++m) {
      const float* a = x + m * D + d;
      float* sum = y + m * F + from;
      if (deep == 4)
        for (int64_t j = 0; j < whole; j += kLanes)
          store(sum + j, load(sum + j) + (a[0] * load(row + j) + a[1] * load(row + F + j)) +
                             (a[2] * load(row + 2 * F + j) + a[3] * load(row + 3 * F + j)));
      for (int64_t i = 0; i < deep; ++i)
        for (int64_t j = deep == 4 ? whole : 0; j < width; ++j) sum[j] += a[i] * row[i * F + j];
    }
  }
}

void more_rows(int64_t M, int64_t D, int64_t F, const float* x, const float* w, float* y,
               int64_t from, int64_t to) {
  const int64_t whole = (to - from) / kLanes * kLanes;
  for (int64_t d = 0; d < D; d += kDepth)
    for (int64_t j = from; j < from + whole;) {
      const int64_t wide = std::min<int64_t>(from + whole - j, kTileVectors * kLanes);
      const int n = static_cast<int>(std::min(kDepth, D - d));
      multiply(static_cast<int>(M), n, static_cast<int>(wide), x + d, D, 1, w + d * F + j, F,
               y + j, F, d > 0);
      j += wide;
    }
  for (int64_t m = 0; m < M; ++m)
    for (int64_t j = from + whole; j < to; ++j) {
      float sum = 0;
      for (int64_t d = 0; d < D; ++d) sum += x[m * D + d] * w[d * F + j];
      y[m * F + j] = sum;
    }
}

ffi::Error multiply_layer(ffi::ThreadPool pool, Array x, Array w, Whole layer, Result y) try {
  const auto size = w.dimensions();
  const int64_t M = x.dimensions()[0], D = size[1], F = size[2];
  const float* weights = w.typed_data() + layer.typed_data()[0] * D * F;
  // Whole cache lines for each thread, and a few pieces for each, as threads are not equally fast.
  const int64_t least = M <= 2 ? 256 : kTileVectors * kLanes;
  const int64_t pieces = std::clamp<int64_t>(F / least, 1, 4 * pool.num_threads());
  const int64_t wide = ((F + pieces - 1) / pieces + least - 1) / least * least;
  parallel(pool, (F + wide - 1) / wide, [&](int64_t piece) {
    const int64_t from = piece * wide, to = std::min(F, from + wide);
    (M <= 2 ? few_rows : more_rows)(M, D, F, x.typed_data(), weights, y->typed_data(), from, to);
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(paged_attention, attend_pages,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Arg<Whole>()
                                  .Arg<Whole>()
                                  .Arg<Whole>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(layer_product, multiply_layer,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Ret<Array>());
