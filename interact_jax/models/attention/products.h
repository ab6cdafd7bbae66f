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

constexpr int64_t kDepth = 128;  // rows of a panel of weights, which stays in the first cache
constexpr int64_t kPanel = kTileVectors * kLanes;  // its columns
constexpr int64_t kBlock = 192;  // rows of x that a task multiplies, at most
constexpr int64_t kPanels = 64;  // columns that a task multiplies
constexpr int64_t kFew = 2;      // rows of x for which reading the weights is all that counts:
constexpr int64_t kRun = 256;    // columns of a task then

// Where the weights are read once, in long runs.
void few_rows(int64_t T, int64_t D, const float* x, const Product& p, int64_t from, int64_t to) {
  const int64_t F = p.F, width = to - from, whole = width / kLanes * kLanes;
  for (int64_t t = 0; t < T && !p.add; ++t) std::fill_n(p.y + t * F + from, width, 0.0f);
  for (int64_t d = 0; d < D; d += 4) {
    const int64_t deep = std::min<int64_t>(4, D - d);
    const float* row = p.w + d * F + from;
    for (int64_t t = 0; t < T; ++t) {
      const float* a = x + t * D + d;
      float* sum = p.y + t * F + from;
      if (deep == 4)
        for (int64_t j = 0; j < whole; j += kLanes)
          store(sum + j, load(sum + j) + (a[0] * load(row + j) + a[1] * load(row + F + j)) +
                             (a[2] * load(row + 2 * F + j) + a[3] * load(row + 3 * F + j)));
      for (int64_t i = 0; i < deep; ++i)
        for (int64_t j = deep == 4 ? whole : 0; j < width; ++j) sum[j] += a[i] * row[i * F + j];
    }
  }
}

// Panel by panel; the next one comes from memory while this one is multiplied.
void more_rows(int64_t T, int64_t D, const float* x, const Product& p, int64_t from, int64_t to) {
  const int64_t F = p.F, whole = from + (to - from) / kLanes * kLanes;
  for (int64_t j = from; j < whole; j += kPanel)
    for (int64_t d = 0; d < D; d += kDepth) {
      const int64_t deep = std::min(kDepth, D - d), wide = std::min(kPanel, whole - j);
      const bool last = d + kDepth >= D;
      const int64_t ahead = !last ? kDepth * F : j + kPanel < whole ? kPanel - d * F : 0;
      multiply(static_cast<int>(T), static_cast<int>(deep), static_cast<int>(wide), x + d, D, 1,
               p.w + d * F + j, F, p.y + j, F, p.add || d > 0, ahead);
    }
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = whole; j < to; ++j) {
      float sum = p.add ? p.y[t * F + j] : 0;
      for (int64_t d = 0; d < D; ++d) sum += x[t * D + d] * p.w[d * F + j];
      p.y[t * F + j] = sum;
    }
}

// The columns [from, to) of a product.
void multiply_columns(int64_t T, int64_t D, const float* x, const Product& p, int64_t from,
                      int64_t to) {
  (T <= kFew ? few_rows : more_rows)(T, D, x, p, from, to);
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
