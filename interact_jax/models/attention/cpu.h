// What the CPU kernels share: vectors of floats, 2^x, small matrix products, threads and scratch.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>

#include "xla/ffi/api/ffi.h"

#ifdef __FAST_MATH__
#error "infinities stand for what is not seen, and sums are rounded on purpose: no fast maths"
#endif

namespace ffi = xla::ffi;

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Whole = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;

// Floats of a vector, and vectors of a row of the tile of a product that stays in registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileVectors = 4;
#elif defined(__AVX__)
constexpr int kLanes = 8, kTileVectors = 2;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kTileVectors = 4;
#else
constexpr int kLanes = 4, kTileVectors = 2;
#endif
constexpr int kTileRows = 6;
constexpr int kLine = 16;  // floats of a cache line
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

constexpr float kLeast = -1e30f;  // where the largest logit begins: finite, so no inf - inf
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2e = 1.44269504f, kLn2 = 0.69314718f;

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Integers load(const int32_t* p) { return *reinterpret_cast<const Integers*>(p); }
inline void store(float* p, Vector x) { *reinterpret_cast<Vector*>(p) = x; }
inline Vector splat(float x) { return x - Vector{}; }
inline Vector select(Integers which, Vector a, Vector b) { return which ? a : b; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float most(Vector x) {
  float result = x[0];
  for (int n = 1; n < kLanes; ++n) result = std::max(result, x[n]);
  return result;
}

inline float add_lanes(Vector x) {
  float result = 0;
  for (int n = 0; n < kLanes; ++n) result += x[n];
  return result;
}

// 2^x to 2e-7 of it for x <= 0; 0 below -126, -inf included.
inline Vector exp2(Vector x) {
  const Integers tiny = x < splat(-126.0f);
  x = select(tiny, splat(-126.0f), x);
  const Vector shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vector whole = (x + shift) - shift;
  const Vector f = x - whole;  // in [-1/2, 1/2]
  Vector y = splat(1.5403530e-4f);
  y = y * f + 1.3333558e-3f;
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 2.4022651e-1f;
  y = y * f + 6.9314718e-1f;
  y = y * f + 1.0f;
  const Integers exponent = (__builtin_convertvector(whole, Integers) + 127) << 23;
  Vector power;
  std::memcpy(&power, &exponent, sizeof power);
  return select(tiny, Vector{}, y * power);
}

// c[i][j] (+)= sum_k a[i][k] b[k][j] for R rows and V vectors of columns; a[i][k] lies at
// a[i * ai + k * ak], rows of b and c are bk and ci floats apart. What lies `ahead` floats behind
// b's is brought to the cache meanwhile; 0 = nothing.
template <int R, int V>
inline void tile(int n, const float* a, int64_t ai, int64_t ak, const float* b, int64_t bk,
                 float* c, int64_t ci, bool add, int64_t ahead) {
  Vector sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = add ? load(c + i * ci + v * kLanes) : Vector{};
  for (int k = 0; k < n; ++k) {
    if (ahead != 0)
      for (int v = 0; v < V * kLanes; v += kLine) __builtin_prefetch(b + k * bk + ahead + v);
    Vector row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + k * bk + v * kLanes);
    for (int i = 0; i < R; ++i) {
      const Vector x = splat(a[i * ai + k * ak]);
      for (int v = 0; v < V; ++v) sum[i][v] += x * row[v];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) store(c + i * ci + v * kLanes, sum[i][v]);
}

template <int V>
void columns(int m, int n, const float* a, int64_t ai, int64_t ak, const float* b, int64_t bk,
             float* c, int64_t ci, bool add, int64_t ahead) {
  for (int i = 0; i < m; ahead = 0) {  // the first tile has brought it
    const float* row = a + i * ai;
    float* to = c + i * ci;
    if (i + kTileRows <= m)
      tile<kTileRows, V>(n, row, ai, ak, b, bk, to, ci, add, ahead), i += kTileRows;
    else if (i + 4 <= m)
      tile<4, V>(n, row, ai, ak, b, bk, to, ci, add, ahead), i += 4;
    else
      tile<1, V>(n, row, ai, ak, b, bk, to, ci, add, ahead), ++i;
  }
}

// The product of an m x n and an n x w matrix, w a multiple of kLanes.
void multiply(int m, int n, int w, const float* a, int64_t ai, int64_t ak, const float* b,
              int64_t bk, float* c, int64_t ci, bool add, int64_t ahead = 0) {
  int j = 0;
  for (; j + kTileVectors * kLanes <= w; j += kTileVectors * kLanes)
    columns<kTileVectors>(m, n, a, ai, ak, b + j, bk, c + j, ci, add, ahead);
  for (; j < w; j += kLanes) columns<1>(m, n, a, ai, ak, b + j, bk, c + j, ci, add, ahead);
}

// Softmax over logits [keys][rows] that come block by block: they become weights relative to the
// largest logit so far, `largest` and `total` are brought up to date, and the sums [rows][K] are
// scaled to the new largest. keep [rows] is scratch.
inline void absorb(int keys, int rows, float* logits, float* largest, float* total, float* keep,
                   float* sum, int64_t K) {
  bool moved = false;
  for (int i = 0; i < rows; i += kLanes) {
    const Vector old = load(largest + i);
    Vector most = old;
    for (int j = 0; j < keys; ++j) most = larger(load(logits + j * rows + i), most);
    const Vector factor = exp2(old - most);
    Vector added{};
    for (int j = 0; j < keys; ++j) {
      const Vector weight = exp2(load(logits + j * rows + i) - most);
      store(logits + j * rows + i, weight);
      added += weight;
    }
    store(largest + i, most);
    store(keep + i, factor);
    store(total + i, load(total + i) * factor + added);
    for (int n = 0; n < kLanes; ++n) moved |= factor[n] != 1.0f;
  }
  if (!moved) return;
  for (int i = 0; i < rows; ++i)
    for (int64_t c = 0; c < K; c += kLanes)
      store(sum + i * K + c, load(sum + i * K + c) * keep[i]);
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Runs work(i) for i < tasks on the pool's threads and the calling one. Where a task finds no
// memory, the others are done all the same, and then it throws: `work` is read until they are.
// The calling thread looks for the end for a while before it sleeps: waking takes as long as a
// small task.
template <typename Work>
void parallel(ffi::ThreadPool& pool, int64_t tasks, const Work& work) {
  constexpr int kLooks = 4000;
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::condition_variable all;
  };
  // A thread that comes when all is done finds no task and touches nothing but this.
  auto progress = std::make_shared<Progress>();
  auto help = [progress, tasks, &work] {
    int64_t mine = 0;
    for (int64_t i; (i = progress->next++) < tasks; ++mine) {
      try {
        work(i);
      } catch (const std::bad_alloc&) {
        progress->failed = true;
      }
    }
    if (mine == 0 || (progress->done += mine) < tasks) return;
    std::lock_guard<std::mutex> lock(progress->mutex);
    progress->all.notify_all();
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), tasks) - 1;
  try {
    for (int64_t i = 0; i < helpers; ++i)
      pool.Schedule(decltype(help)(help));  // takes a temporary only
  } catch (const std::bad_alloc&) {
    // Fewer threads do it.
  }
  help();
  for (int look = 0; look < kLooks && progress->done < tasks; ++look) pause();
  if (progress->done < tasks) {
    std::unique_lock<std::mutex> lock(progress->mutex);
    progress->all.wait(lock, [&] { return progress->done >= tasks; });
  }
  if (progress->failed) throw std::bad_alloc();
}

// Memory that begins where a cache line does: a vector that lies across two takes two accesses.
using Floats = std::unique_ptr<float[], decltype(&std::free)>;

Floats floats(int64_t count) {
  const size_t line = 64, bytes = (count * sizeof(float) + line) / line * line;
  auto* memory = static_cast<float*>(std::aligned_alloc(line, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return Floats(memory, &std::free);
}

// Memory of this thread's own, which stays for the next task.
float* scratch(int64_t count) {
  thread_local Floats memory(nullptr, &std::free);
  thread_local int64_t held = 0;
  if (held < count) memory = floats(count), held = count;
  return memory.get();
}

ffi::Error no_memory() {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "attention: there is not enough memory");
}

}  // namespace
