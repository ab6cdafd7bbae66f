// All layers of a decoder on new tokens of sequences in pages, and its head, on a CPU, float32: the
// arithmetic of block.py, on the stacked weights where they lie. One call does a whole token, since
// XLA's loop over layers spends as long between its many small operations as on some of them.

#include <cmath>

#include "large_pages.h"
#include "paged.h"
#include "products.h"
#include "team.h"

namespace {

constexpr int64_t kTokens = 8;  // of a task that takes tokens one by one

// The weights of a layer, in the order of native_layers.WEIGHTS; null where a family has none.
struct Weights {
  const float *attention_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *o, *o_bias,
      *mlp_norm, *gate, *up, *down;
};

// y += x, where there is an x.
void add(int64_t D, const float* x, float* y) {
  if (x == nullptr) return;
  for (int64_t i = 0; i < D; ++i) y[i] += x[i];
}

// Products of the same few rows x[T][D].
void multiply_few(Team& team, int64_t T, int64_t D, const float* x,
                  const std::vector<Product>& products) {
  const auto count = static_cast<int64_t>(products.size()), parts = pieces(D, kRows);
  std::vector<int64_t> first{0};  // of a product's parts
  for (const Product& p : products) first.push_back(first.back() + parts * T * p.F);
  const Floats sums = floats(first.back());
  team.run(parts * count, [&](int64_t task) {
    const int64_t n = task / parts, part = task % parts;
    few_rows(T, D, x, products[n], part * kRows, std::min(D, (part + 1) * kRows),
             sums.get() + first[n] + part * T * products[n].F);
  });
  for (int64_t n = 0; n < count; ++n) {
    const int64_t size = T * products[n].F;
    float* y = products[n].y;
    if (!products[n].add) std::fill_n(y, size, 0.0f);
    for (int64_t part = 0; part < parts; ++part)
      add(size, sums.get() + first[n] + part * size, y);
  }
}

// Products of the same rows x[T][D].
void multiply_all(Team& team, int64_t T, int64_t D, const float* x,
                  const std::vector<Product>& products) {
  if (T <= kFew) return multiply_few(team, T, D, x, products);
  int64_t columns = 0;
  for (const Product& p : products) columns += pieces(p.F, kColumns);
  team.run(columns * pieces(T, kBlock), [&](int64_t task) {
    const int64_t t = task / columns * kBlock, count = std::min(kBlock, T - t);
    int64_t piece = task % columns;
    auto p = products.begin();
    for (; piece >= pieces(p->F, kColumns); ++p) piece -= pieces(p->F, kColumns);
    const int64_t from = piece * kColumns, to = std::min(p->F, from + kColumns);
    more_rows(count, D, x + t * D, {p->w, p->F, p->y + t * p->F, p->add}, from, to);
  });
}

// y = x / rms(x) * scale; y may be x.
void normalise(int64_t D, const float* x, const float* scale, float eps, float* y) {
  Vector squares{};
  int64_t d = 0;
  for (; d + kLanes <= D; d += kLanes) squares += load(x + d) * load(x + d);
  float sum = add_lanes(squares);
  for (; d < D; ++d) sum += x[d] * x[d];
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(D) + eps);
  for (int64_t i = 0; i < D; ++i) y[i] = x[i] * inverse * scale[i];
}

// gate = silu(gate) * up.
void activate(int64_t F, float* gate, const float* up) {
  for (int64_t j = 0; j < F; j += kLanes) {
    const size_t bytes = std::min<int64_t>(kLanes, F - j) * sizeof(float);
    Vector x{}, y{};
    std::memcpy(&x, gate + j, bytes), std::memcpy(&y, up + j, bytes);
    const Vector small = exp2((x > 0 ? -x : x) * kLog2e);  // e^-|x|
    const Vector share = (x > 0 ? splat(1.0f) : small) / (1.0f + small);
    x = x * share * y;
    std::memcpy(gate + j, &x, bytes);
  }
}

class Layers {
 public:
  // Works on the `tokens` (b, l) that are no padding. cosine and sine: [B][L][K / 2].
  Layers(Team& team, const Tokens& t, std::vector<std::pair<int64_t, int64_t>> tokens, int64_t D,
         int64_t F, int64_t K, float eps, const float* cosine, const float* sine)
      : hidden(floats(tokens.size() * D)),
        team_(team), t_(t), tokens_(std::move(tokens)), T_(tokens_.size()), D_(D), F_(F), K_(K),
        eps_(eps), cosine_(cosine), sine_(sine),
        x_(floats(T_ * D)), q_(floats(T_ * t.H * K)), k_(floats(T_ * t.G * K)),
        v_(floats(T_ * t.G * K)), heads_(floats(T_ * t.H * t.K)), out_(floats(T_ * t.H * t.K)),
        gate_(floats(T_ * F)), up_(floats(T_ * F)) {
    t_.q = heads_.get(), t_.out = out_.get();
    std::fill_n(heads_.get(), T_ * t.H * t.K, 0.0f);  // what a head is padded with
  }

  // Keys and values of a layer, and nothing else.
  void fill(const Weights& w, const Pool& pool) {
    normalise_all(w);
    multiply_all(team_, T_, D_, x_.get(),
                 {{w.k, t_.G * K_, k_.get(), false}, {w.v, t_.G * K_, v_.get(), false}});
    each_token([&](int64_t i) { place_keys(w, pool, i); });
  }

  void run(const Weights& w, const Pool& pool, int32_t window) {
    float *x = x_.get(), *q = q_.get(), *gate = gate_.get();
    const int64_t HK = t_.H * K_, GK = t_.G * K_;
    t_.window = window;
    normalise_all(w);
    multiply_all(team_, T_, D_, x,
                 {{w.q, HK, q, false}, {w.k, GK, k_.get(), false}, {w.v, GK, v_.get(), false}});
    each_token([&](int64_t i) { place_queries(w, i), place_keys(w, pool, i); });
    const auto blocks = blocks_of(t_, pool);
    team_.run(static_cast<int64_t>(blocks.size()) * t_.G, [&](int64_t task) {
      attend(t_, pool, blocks[task / t_.G], task % t_.G);
    });
    each_token([&](int64_t i) {
      for (int64_t h = 0; h < t_.H; ++h)
        std::copy_n(out_.get() + (i * t_.H + h) * t_.K, K_, q + i * HK + h * K_);
    });
    multiply_all(team_, T_, HK, q, {{w.o, D_, hidden.get(), true}});
    each_token([&](int64_t i) {
      add(D_, w.o_bias, hidden.get() + i * D_);
      normalise(D_, hidden.get() + i * D_, w.mlp_norm, eps_, x + i * D_);
    });
    multiply_all(team_, T_, D_, x, {{w.gate, F_, gate, false}, {w.up, F_, up_.get(), false}});
    each_token([&](int64_t i) { activate(F_, gate + i * F_, up_.get() + i * F_); });
    multiply_all(team_, T_, F_, gate, {{w.down, D_, hidden.get(), true}});
  }

  Floats hidden;  // [T][D]

 private:
  template <typename Work>
  void each_token(const Work& work) {
    team_.run(pieces(T_, kTokens), [&](int64_t task) {
      for (int64_t i = task * kTokens; i < std::min(T_, (task + 1) * kTokens); ++i) work(i);
    });
  }

  void normalise_all(const Weights& w) {
    each_token([&](int64_t i) {
      normalise(D_, hidden.get() + i * D_, w.attention_norm, eps_, x_.get() + i * D_);
    });
  }

  // Of the cosines and sines of a token.
  int64_t angle(int64_t i) const { return (tokens_[i].first * t_.L + tokens_[i].second) * (K_ / 2); }

  // Bias, norm and rotation of a token's queries.
  void place_queries(const Weights& w, int64_t i) {
    float* q = q_.get() + i * t_.H * K_;
    add(t_.H * K_, w.q_bias, q);
    for (int64_t h = 0; h < t_.H; ++h)
      rotate(q + h * K_, w.q_norm, angle(i), heads_.get() + (i * t_.H + h) * t_.K);
  }

  // The same of its keys, which go to their page with the values.
  void place_keys(const Weights& w, const Pool& pool, int64_t i) {
    float *k = k_.get() + i * t_.G * K_, *v = v_.get() + i * t_.G * K_;
    add(t_.G * K_, w.k_bias, k), add(t_.G * K_, w.v_bias, v);
    for (int64_t g = 0; g < t_.G; ++g) rotate(k + g * K_, w.k_norm, angle(i), k + g * K_);
    keep(t_, pool, tokens_[i].first, tokens_[i].second, k, v, K_);
  }

  // Norm, where there is a scale, and rotation of a head; `to` may be `head`.
  void rotate(float* head, const float* scale, int64_t angle, float* to) const {
    if (scale != nullptr) normalise(K_, head, scale, eps_, head);
    const int64_t half = K_ / 2;
    const float *cosine = cosine_ + angle, *sine = sine_ + angle;
    for (int64_t k = 0; k < half; ++k) {
      const float a = head[k], b = head[k + half];
      to[k] = a * cosine[k] - b * sine[k];
      to[k + half] = b * cosine[k] + a * sine[k];
    }
  }

  Team& team_;
  Tokens t_;
  const std::vector<std::pair<int64_t, int64_t>> tokens_;
  const int64_t T_, D_, F_, K_;
  const float eps_;
  const float *cosine_, *sine_;
  Floats x_, q_, k_, v_, heads_, out_, gate_, up_;
};

// The weights of layer n of N.
Weights weights_of(const ffi::RemainingArgs& stacked, int64_t n, int64_t N) {
  auto of = [&](size_t i) -> const float* {
    const Array array = *stacked.get<Array>(i);
    const int64_t size = array.element_count() / N;
    return size == 0 ? nullptr : array.typed_data() + n * size;
  };
  return {of(0), of(1), of(2),  of(3),  of(4),  of(5),  of(6), of(7),
          of(8), of(9), of(10), of(11), of(12), of(13), of(14)};
}

// hidden [B][L][D] (0 where a token is padding), cosine and sine [B][L][K / 2], window [N]; the
// pool is changed in place. With `fill`, the last layer makes keys and values only.
ffi::Error run_layers(ffi::ThreadPool threads, Array hidden, Whole position, Whole table,
                      Array cosine, Array sine, Whole window, Array, Array,
                      ffi::RemainingArgs weights, Result out, Result keys, Result values,
                      float eps, bool fill) try {
  const auto d = hidden.dimensions(), size = keys->dimensions();  // N pages G K P
  const int64_t B = d[0], L = d[1], D = d[2], N = size[0], G = size[2];
  const int64_t K = 2 * cosine.dimensions().back(), of_layer = keys->element_count() / N;
  auto columns = [&](size_t weight) {  // of a matrix of a layer
    return static_cast<int64_t>(weights.get<Array>(weight)->element_count()) / (N * D);
  };
  const int64_t H = columns(1) / K, F = columns(12);
  std::vector<std::pair<int64_t, int64_t>> tokens;
  std::vector<int64_t> row(B * L);
  for (int64_t i = 0; i < B * L; ++i) {
    row[i] = static_cast<int64_t>(tokens.size());
    if (position.typed_data()[i] >= 0) tokens.emplace_back(i / L, i % L);
  }
  auto pool_of = [&](int64_t n) {
    return Pool{keys->typed_data() + n * of_layer, values->typed_data() + n * of_layer,
                size[1], G, size[3], size[4]};
  };
  const Tokens t{nullptr, nullptr, row.data(), position.typed_data(), table.typed_data(), B, L, H,
                 G, size[3], table.dimensions()[1], H / G, 0, 1.0f / std::sqrt(static_cast<float>(K))};
  if (!within(t, pool_of(0))) return no_such_page();
  use_large_pages(keys->typed_data(), keys->size_bytes());
  use_large_pages(values->typed_data(), values->size_bytes());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Array array = *weights.get<Array>(i);
    use_large_pages(array.typed_data(), array.size_bytes());
  }
  std::fill_n(out->typed_data(), B * L * D, 0.0f);
  Team team(threads);
  Layers layers(team, t, tokens, D, F, K, eps, cosine.typed_data(), sine.typed_data());
  auto at = [&](size_t i) { return (tokens[i].first * L + tokens[i].second) * D; };
  for (size_t i = 0; i < tokens.size(); ++i)
    std::copy_n(hidden.typed_data() + at(i), D, layers.hidden.get() + i * D);
  for (int64_t n = 0; n < N - fill; ++n)
    layers.run(weights_of(weights, n, N), pool_of(n), window.typed_data()[n]);
  if (fill) layers.fill(weights_of(weights, N - 1, N), pool_of(N - 1));
  for (size_t i = 0; i < tokens.size(); ++i)
    std::copy_n(layers.hidden.get() + i * D, D, out->typed_data() + at(i));
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

// y[T][V] = x[T][D] times the head: [D][V], or the embedding [V][D].
ffi::Error multiply_head(ffi::ThreadPool threads, Array x, Array head, Result y, bool tied) try {
  const auto d = x.dimensions();
  const int64_t T = d[0], D = d[1], V = y->dimensions()[1];
  use_large_pages(head.typed_data(), head.size_bytes());
  Team team(threads);
  if (!tied) {
    multiply_all(team, T, D, x.typed_data(), {{head.typed_data(), V, y->typed_data(), false}});
    return ffi::Error::Success();
  }
  team.run(pieces(V, kColumns), [&](int64_t piece) {
    multiply_transposed(T, D, x.typed_data(), head.typed_data(), y->typed_data(), V,
                        piece * kColumns, std::min(V, (piece + 1) * kColumns));
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return no_memory();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(decoder_layers, run_layers,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Arg<Whole>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Whole>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("eps")
                                  .Attr<bool>("fill"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(decoder_head, multiply_head,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<bool>("tied"));
