// Attention over trunk and branches on a CPU: forward and backward, float32.
//
// A task takes a block of queries of one key head and goes through the keys that its runs touch, a
// block at a time, as `blockwise.py` does; here a block of logits stays in the cache between the
// products, the softmax and the products after it. Logits lie with keys as rows and queries as
// lanes, so that largest, sum and mask are plain vector operations and nothing but the queries (and
// in the backward pass the gradient that comes in) is ever transposed. r = H / G heads that read
// one key head lie side by side in the lanes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu.h"

namespace {

// Parts of the sums over queries: no more, and no more bytes, unless one part takes them.
constexpr int64_t kParts = 4, kPartsBytes = int64_t{1} << 30;

struct Shape {
  int64_t B, L, H, S, G, K, runs;
  int64_t r, q, blocks;  // heads of a key head, queries of a block, blocks of a row
  int rows, keys;        // of a block of logits; rows = r * q lie in its lanes

  Shape(const Array& queries, const Array& k, const Whole& spans, int block_q, int block_k)
      : B(queries.dimensions()[0]),
        L(queries.dimensions()[1]),
        H(queries.dimensions()[2]),
        S(k.dimensions()[1]),
        G(k.dimensions()[2]),
        K(k.dimensions()[3]),
        runs(spans.dimensions()[0]),
        r(H / G),
        q(block_q),
        blocks((L + q - 1) / q),
        rows(static_cast<int>(r * q)),
        keys(block_k) {}
};

// A block of queries [t0, t0 + count) of row b and key head g, and what they see.
struct Block {
  const Shape& shape;
  int64_t b, g, t0, count;
  std::vector<int32_t> first, end;        // [runs][q]
  std::vector<int64_t> low, high;         // of each run: the keys that some query sees
  std::vector<int64_t> all_from, all_to;  // and those that every query sees

  Block(const Shape& shape, const int32_t* spans, int64_t b, int64_t g, int64_t block)
      : shape(shape), b(b), g(g), t0(block * shape.q), count(std::min(shape.q, shape.L - t0)) {
    const auto runs = shape.runs, q = shape.q, BL = shape.B * shape.L;
    first.assign(runs * q, 0), end.assign(runs * q, 0);
    for (int64_t n = 0; n < runs; ++n) {
      const int32_t* from = spans + 2 * n * BL + b * shape.L + t0;
      const auto S = static_cast<int32_t>(shape.S);
      for (int64_t i = 0; i < count; ++i) {  // nothing outside the keys is ever touched
        first[n * q + i] = std::max(from[i], 0);
        end[n * q + i] = std::min(from[BL + i], S);
      }
      int64_t lowest = shape.S, highest = 0, latest = 0, earliest = shape.S;
      for (int64_t i = 0; i < q; ++i) {
        const int64_t f = first[n * q + i], e = end[n * q + i];
        if (f < e) lowest = std::min(lowest, f), highest = std::max(highest, e);
        latest = std::max(latest, f), earliest = std::min(earliest, e);
      }
      low.push_back(lowest), high.push_back(highest);
      all_from.push_back(latest), all_to.push_back(earliest);
    }
  }

  // visit(start, keys, run or -1 where every query sees all of them) for each block of keys.
  template <typename Visit>
  void keys(const Visit& visit) const {
    for (int64_t n = 0; n < shape.runs; ++n)
      for (int64_t start = low[n]; start < high[n]; start += shape.keys) {
        const int64_t stop = std::min<int64_t>(start + shape.keys, high[n]);
        const bool whole = all_from[n] <= start && stop <= all_to[n];
        visit(start, static_cast<int>(stop - start), whole ? -1 : static_cast<int>(n));
      }
  }

  // -inf for the logits [keys][rows] of what is not seen.
  void mask(float* logits, int64_t start, int keys, int run) const {
    for (int j = 0; j < keys; ++j) {
      const int32_t key = static_cast<int32_t>(start) + j;
      for (int64_t i = 0; i < shape.q; i += kLanes) {
        const Integers seen =
            (load(&first[run * shape.q + i]) <= key) & (load(&end[run * shape.q + i]) > key);
        for (int64_t h = 0; h < shape.r; ++h) {
          float* p = logits + j * shape.rows + h * shape.q + i;
          store(p, select(seen, load(p), splat(-kInfinity)));
        }
      }
    }
  }

  // Where the vector of query i and head h of this key head begins in an array [B, L, H, K].
  int64_t at(int64_t h, int64_t i) const {
    return ((b * shape.L + t0 + i) * shape.H + g * shape.r + h) * shape.K;
  }
  int64_t statistic(int64_t h) const { return (b * shape.H + g * shape.r + h) * shape.L + t0; }
  int64_t key(int64_t s) const { return ((b * shape.G + g) * shape.S + s) * shape.K; }

  // to[rows][K] and toT[K][rows], times `scale`; zero where there are no more queries.
  void pack(const float* x, float scale, float* to, float* toT) const {
    const int64_t K = shape.K, q = shape.q, rows = shape.rows;
    if (to) std::fill_n(to, rows * K, 0.0f);
    std::fill_n(toT, rows * K, 0.0f);
    for (int64_t h = 0; h < shape.r; ++h)
      for (int64_t i = 0; i < count; ++i) {
        const float* from = x + at(h, i);
        if (to) std::copy_n(from, K, to + (h * q + i) * K);
        for (int64_t k = 0; k < K; ++k) toT[k * rows + h * q + i] = from[k] * scale;
      }
  }
};

// Keys or values [B, S, G, K] as [B, G, S, K]: a block of them then lies in one piece, where rows
// a power of two apart would push one another out of the cache.
Floats by_head(ffi::ThreadPool& pool, const Shape& shape, const float* x) {
  const int64_t G = shape.G, S = shape.S, K = shape.K;
  Floats to = floats(shape.B * G * S * K);
  parallel(pool, shape.B * G, [&](int64_t pair) {
    const float* from = x + (pair / G * S * G + pair % G) * K;
    for (int64_t s = 0; s < S; ++s) std::copy_n(from + s * G * K, K, to.get() + (pair * S + s) * K);
  });
  return to;
}

ffi::Error forward(ffi::ThreadPool pool, Array q, Array k, Array v, Whole spans, Result out,
                   Result lse, int block_q, int block_k, float scale) try {
  const Shape shape(q, k, spans, block_q, block_k);
  const int rows = shape.rows;
  const int64_t K = shape.K, pairs = shape.B * shape.G;

  const auto ks = by_head(pool, shape, k.typed_data()), vs = by_head(pool, shape, v.typed_data());
  parallel(pool, pairs * shape.blocks, [&](int64_t task) {
    // Later blocks see more: the longest go first.
    const int64_t block = shape.blocks - 1 - task / pairs, pair = task % pairs;
    const Block queries(shape, spans.typed_data(), pair / shape.G, pair % shape.G, block);
    float* qT = scratch(rows * (2 * K + int64_t{shape.keys} + 3));
    float *sum = qT + rows * K, *logits = sum + rows * K, *largest = logits + rows * shape.keys;
    float *total = largest + rows, *keep = total + rows;
    queries.pack(q.typed_data(), scale * kLog2e, nullptr, qT);
    std::fill_n(sum, rows * K, 0.0f);
    std::fill_n(largest, rows, kLeast);
    std::fill_n(total, rows, 0.0f);

    queries.keys([&](int64_t start, int keys, int run) {
      const float* key = ks.get() + queries.key(start);
      multiply(keys, K, rows, key, K, 1, qT, rows, logits, rows, false);
      if (run >= 0) queries.mask(logits, start, keys, run);
      absorb(keys, rows, logits, largest, total, keep, sum, K);
      multiply(rows, keys, K, logits, 1, rows, vs.get() + queries.key(start), K, sum, K, true);
    });

    for (int64_t h = 0; h < shape.r; ++h)
      for (int64_t i = 0; i < queries.count; ++i) {
        const int64_t row = h * shape.q + i;
        const bool some = total[row] > 0;
        const float over = some ? 1.0f / total[row] : 0.0f;
        float* to = out->typed_data() + queries.at(h, i);
        for (int64_t c = 0; c < K; c += kLanes) store(to + c, load(sum + row * K + c) * over);
        lse->typed_data()[queries.statistic(h) + i] =
            some ? (largest[row] + std::log2(total[row])) * kLn2 : kInfinity;
      }
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

ffi::Error backward(ffi::ThreadPool pool, Array q, Array k, Array v, Whole spans, Array out,
                    Array lse, Array dout, Result dq, Result dk, Result dv, int block_q,
                    int block_k, float scale) try {
  const Shape shape(q, k, spans, block_q, block_k);
  const int rows = shape.rows;
  const int64_t K = shape.K, pairs = shape.B * shape.G;

  // A task sums the gradients of the keys of a row and key head. Where those are too few for all
  // threads, every `parts`-th block of queries is a task; sums take memory, so parts are few.
  const int64_t wanted = (2 * pool.num_threads() + pairs - 1) / std::max<int64_t>(1, pairs);
  const int64_t size = dk->element_count();
  const int64_t few = std::min(kParts, kPartsBytes / (8 * std::max<int64_t>(1, size)));
  const int64_t parts = std::max<int64_t>(1, std::min({wanted, shape.blocks, few}));
  const Floats sums = floats(2 * size * parts);

  const auto ks = by_head(pool, shape, k.typed_data()), vs = by_head(pool, shape, v.typed_data());
  parallel(pool, pairs * parts, [&](int64_t task) {
    const int64_t pair = task / parts, part = task % parts;
    float *dkp = sums.get() + 2 * size * part, *dvp = dkp + size;
    std::fill_n(dkp + pair * shape.S * K, shape.S * K, 0.0f);
    std::fill_n(dvp + pair * shape.S * K, shape.S * K, 0.0f);
    float* Q = scratch(rows * (5 * K + 2 * int64_t{shape.keys} + 2));
    float *qT = Q + rows * K, *D = qT + rows * K, *dT = D + rows * K, *sum = dT + rows * K;
    float *weights = sum + rows * K, *dlogits = weights + rows * shape.keys;
    float *base = dlogits + rows * shape.keys, *delta = base + rows;
    for (int64_t block = part; block < shape.blocks; block += parts) {
      const Block queries(shape, spans.typed_data(), pair / shape.G, pair % shape.G, block);
      queries.pack(q.typed_data(), scale * kLog2e, Q, qT);
      queries.pack(dout.typed_data(), 1.0f, D, dT);
      std::fill_n(sum, rows * K, 0.0f);
      std::fill_n(base, rows, kInfinity);
      std::fill_n(delta, rows, 0.0f);
      for (int64_t h = 0; h < shape.r; ++h)
        for (int64_t i = 0; i < queries.count; ++i) {
          const int64_t at = queries.at(h, i), row = h * shape.q + i;
          Vector products{};
          for (int64_t c = 0; c < K; c += kLanes)
            products += load(out.typed_data() + at + c) * load(dout.typed_data() + at + c);
          for (int n = 0; n < kLanes; ++n) delta[row] += products[n];
          base[row] = lse.typed_data()[queries.statistic(h) + i] * kLog2e;
        }

      queries.keys([&](int64_t start, int keys, int run) {
        const int64_t at = queries.key(start);
        const float *key = ks.get() + at, *value = vs.get() + at;
        multiply(keys, K, rows, key, K, 1, qT, rows, weights, rows, false);
        if (run >= 0) queries.mask(weights, start, keys, run);
        multiply(keys, K, rows, value, K, 1, dT, rows, dlogits, rows, false);
        for (int i = 0; i < rows; i += kLanes) {
          const Vector least = load(base + i), mean = load(delta + i);
          for (int j = 0; j < keys; ++j) {
            const int64_t n = j * rows + i;
            const Vector weight = exp2(load(weights + n) - least);
            store(weights + n, weight);
            store(dlogits + n, weight * (load(dlogits + n) - mean) * scale);
          }
        }
        multiply(keys, rows, K, weights, rows, 1, D, K, dvp + at, K, true);
        multiply(keys, rows, K, dlogits, rows, 1, Q, K, dkp + at, K, true);
        multiply(rows, keys, K, dlogits, 1, rows, key, K, sum, K, true);
      });
      for (int64_t h = 0; h < shape.r; ++h)
        for (int64_t i = 0; i < queries.count; ++i)
          std::copy_n(sum + (h * shape.q + i) * K, K, dq->typed_data() + queries.at(h, i));
    }
  });

  parallel(pool, shape.B * shape.S, [&](int64_t bs) {
    const int64_t b = bs / shape.S, s = bs % shape.S;
    for (int64_t g = 0; g < shape.G; ++g)
      for (int64_t c = 0; c < K; c += kLanes) {
        const float* from = sums.get() + ((b * shape.G + g) * shape.S + s) * K + c;
        Vector keys{}, values{};
        for (int64_t part = 0; part < parts; ++part, from += 2 * size) {
          keys += load(from);
          values += load(from + size);
        }
        store(dk->typed_data() + (bs * shape.G + g) * K + c, keys);
        store(dv->typed_data() + (bs * shape.G + g) * K + c, values);
      }
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<int32_t>("block_q")
                                  .Attr<int32_t>("block_k")
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<int32_t>("block_q")
                                  .Attr<int32_t>("block_k")
                                  .Attr<float>("scale"));
