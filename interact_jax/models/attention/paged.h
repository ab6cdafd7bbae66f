// Attention of new tokens over keys and values in pages, on a CPU, float32: first the keys and
// values of the new tokens are written to their pages, then each new token attends to the tokens of
// its sequence up to itself.
//
// Keys lie in a page as [K][P], values as [P][K], so that logits of P keys and sums over K are
// vectors without sums across their lanes. Two ways through the pages: queries that go through the
// same pages (the tokens of a prompt, or sequences with a common prefix) lie side by side in lanes,
// as in native.cc, and a page is read once for all of them; the own pages of a single sequence are
// read for its r = H / G queries of a key head alone.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu.h"

namespace {

constexpr int kSideBySide = 64;  // queries in lanes, at most

struct Pool {
  float *keys, *values;
  int64_t pages, G, K, P;
  float* key(int64_t page, int64_t g) const { return keys + (page * G + g) * K * P; }
  float* value(int64_t page, int64_t g) const { return values + (page * G + g) * K * P; }
};

struct Tokens {
  const float* q;  // [row][H][K], as out
  float* out;
  const int64_t* row;  // of each token, [B][L]
  const int32_t *position, *table;
  int64_t B, L, H, G, K, M, r;
  int64_t window;
  float scale;

  int64_t at(int64_t b, int64_t l, int64_t head) const { return (row[b * L + l] * H + head) * K; }
  const int32_t* pages(int64_t b) const { return table + b * M; }
  int32_t place(int64_t b, int64_t l) const { return position[b * L + l]; }
  int64_t first(int64_t place) const { return std::max<int64_t>(0, place - window + 1); }
};

// The softmax so far of `rows` queries: with a padding to whole vectors.
struct State {
  int rows;
  float *q, *sum, *largest, *total;  // q and sum: [rows][K]
};

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

std::vector<Block> blocks_of(const Tokens& t, const Pool& pool) {
  return t.L > 1 ? blocks_of_prompts(t, pool.P) : blocks_of_sequences(t, pool.P);
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

ffi::Error no_such_page() {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "attention: a table lists no such page");
}

// Writes the keys and values of a token, [G][K] floats, to its page.
void keep(const Tokens& t, const Pool& pool, int64_t b, int64_t l, const float* k, const float* v,
          int64_t K) {
  const int64_t place = t.place(b, l), page = t.pages(b)[place / pool.P], slot = place % pool.P;
  for (int64_t g = 0; g < pool.G; ++g) {
    float* key = pool.key(page, g) + slot;
    for (int64_t c = 0; c < K; ++c) key[c * pool.P] = k[g * K + c];
    std::copy_n(v + g * K, K, pool.value(page, g) + slot * pool.K);
  }
}

}  // namespace
