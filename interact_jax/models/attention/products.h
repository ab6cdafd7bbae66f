// Products of rows with weights where they lie, row-major: nothing is packed or copied.

#pragma once

#include "cpu.h"

namespace {

// y[T][F] (+)= x[T][D] w[D][F].
struct Product {
  const float* w;
  int64_t F;
  float* y;
  bool add;
};

constexpr int64_t kDepth = 256;  // rows of a panel of weights, which stays in the nearest caches
constexpr int64_t kPanel = kTileVectors * kLanes;  // its columns
constexpr int64_t kColumns = 64;  // that a task multiplies
constexpr int64_t kBlock = 384;   // rows of x that a task multiplies, at most
constexpr int64_t kMany = 128;    // rows of x that are worth a copy of the panel in one piece
constexpr int64_t kFew = 2;       // rows of x for which reading the weights is all that counts:
constexpr int64_t kRows = 64;     // rows of weights of a task then
constexpr int64_t kNarrow = 2048;  // floats of a row of sums that leaves room in the first cache

int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// sum[F] += a[R] w[R][F].
template <int R>
void add_rows(int64_t F, const float* a, const float* w, float* sum) {
  int64_t j = 0;
  for (; j + kLanes <= F; j += kLanes) {
    Vector s = load(sum + j);
    for (int i = 0; i < R; ++i) s += a[i] * load(w + i * F + j);
    store(sum + j, s);
  }
  for (; j < F; ++j)
    for (int i = 0; i < R; ++i) sum[j] += a[i] * w[i * F + j];
}

// The part sum[T][F] of a product that comes of the rows [from, to) of its weights. They are read
// as they lie, in one stream: the processor foresees it, and 24 GB/s come where strips of columns
// bring 14 to 18. Of wide rows it foresees several at a time, which spares the sums.
void few_rows(int64_t T, int64_t D, const float* x, const Product& p, int64_t from, int64_t to,
              float* sum) {
  std::fill_n(sum, T * p.F, 0.0f);
  for (int64_t d = from; d < to;) {
    const bool wide = p.F > kNarrow && d + 8 <= to;
    for (int64_t t = 0; t < T; ++t)
      (wide ? add_rows<8> : add_rows<1>)(p.F, x + t * D + d, p.w + d * p.F, sum + t * p.F);
    d += wide ? 8 : 1;
  }
}

// Panel by panel. The next one comes from memory while this one is multiplied; for many rows it is
// copied first: where rows of weights lie a power of two apart, they drive one another out of the
// first cache.
void more_rows(int64_t T, int64_t D, const float* x, const Product& p, int64_t from, int64_t to) {
  const int64_t F = p.F, whole = from + (to - from) / kLanes * kLanes;
  float* copy = T < kMany ? nullptr : scratch(kDepth * kPanel);
  for (int64_t j = from; j < whole; j += kPanel)
    for (int64_t d = 0; d < D; d += kDepth) {
      const int64_t deep = std::min(kDepth, D - d), wide = std::min(kPanel, whole - j);
      const float* panel = p.w + d * F + j;
      for (int64_t k = 0; copy != nullptr && k < deep; ++k)
        for (int64_t v = 0; v < wide; v += kLanes) store(copy + k * wide + v, load(panel + k * F + v));
      const bool last = d + kDepth >= D;
      const int64_t ahead = copy != nullptr         ? 0
                            : !last                 ? kDepth * F
                            : j + kPanel < whole    ? kPanel - d * F
                                                    : 0;
      multiply(static_cast<int>(T), static_cast<int>(deep), static_cast<int>(wide), x + d, D, 1,
               copy != nullptr ? copy : panel, copy != nullptr ? wide : F, p.y + j, F,
               p.add || d > 0, ahead);
    }
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = whole; j < to; ++j) {
      float sum = p.add ? p.y[t * F + j] : 0;
      for (int64_t d = 0; d < D; ++d) sum += x[t * D + d] * p.w[d * F + j];
      p.y[t * F + j] = sum;
    }
}

// y[t][v] = sum_d x[t][d] w[v][d] for R rows of x and S of w.
template <int R, int S>
inline void dots(int64_t D, const float* x, const float* w, float* y, int64_t V) {
  Vector sum[R][S] = {};
  const int64_t whole = D / kLanes * kLanes;
  for (int64_t d = 0; d < whole; d += kLanes) {
    Vector row[S];
    for (int s = 0; s < S; ++s) row[s] = load(w + s * D + d);
    for (int t = 0; t < R; ++t) {
      const Vector a = load(x + t * D + d);
      for (int s = 0; s < S; ++s) sum[t][s] += a * row[s];
    }
  }
  for (int t = 0; t < R; ++t)
    for (int s = 0; s < S; ++s) {
      float result = add_lanes(sum[t][s]);
      for (int64_t d = whole; d < D; ++d) result += x[t * D + d] * w[s * D + d];
      y[t * V + s] = result;
    }
}

// The columns [from, to) of y[T][V] = x[T][D] w[V][D] transposed: the head that is the embedding.
void multiply_transposed(int64_t T, int64_t D, const float* x, const float* w, float* y, int64_t V,
                         int64_t from, int64_t to) {
  int64_t v = from;
  for (; v + 4 <= to; v += 4) {
    int64_t t = 0;
    for (; t + 4 <= T; t += 4) dots<4, 4>(D, x + t * D, w + v * D, y + t * V + v, V);
    for (; t < T; ++t) dots<1, 4>(D, x + t * D, w + v * D, y + t * V + v, V);
  }
  for (; v < to; ++v)
    for (int64_t t = 0; t < T; ++t) dots<1, 1>(D, x + t * D, w + v * D, y + t * V + v, V);
}

}  // namespace
