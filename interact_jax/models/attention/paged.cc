#include <numeric>

#include "paged.h"

namespace {

ffi::Error attend_pages(ffi::ThreadPool pool, Array q, Array k, Array v, Whole position,
                        Whole table, Whole layer, Whole window, Array, Array, Result out,
                        Result keys, Result values, float scale) try {
  const auto size = keys->dimensions();  // N pages G K P
  const int64_t n = layer.typed_data()[0], of_layer = size[1] * size[2] * size[3] * size[4];
  const Pool pages{keys->typed_data() + n * of_layer, values->typed_data() + n * of_layer,
                   size[1], size[2], size[3], size[4]};
  const auto d = q.dimensions();
  std::vector<int64_t> row(d[0] * d[1]);
  std::iota(row.begin(), row.end(), 0);
  const Tokens t{q.typed_data(), out->typed_data(), row.data(), position.typed_data(),
                 table.typed_data(), d[0], d[1], d[2], pages.G, d[3], table.dimensions()[1],
                 d[2] / pages.G, window.typed_data()[0], scale};
  if (!within(t, pages)) return no_such_page();
  for (int64_t b = 0; b < t.B; ++b)
    for (int64_t l = 0; l < t.L; ++l) {
      const int64_t from = (b * t.L + l) * t.G * t.K;
      if (t.place(b, l) < 0)
        std::fill_n(t.out + t.at(b, l, 0), t.H * t.K, 0.0f);
      else
        keep(t, pages, b, l, k.typed_data() + from, v.typed_data() + from, t.K);
    }
  const auto blocks = blocks_of(t, pages);
  const auto count = static_cast<int64_t>(blocks.size());
  parallel(pool, count * t.G, [&](int64_t task) {  // the last tokens of a prompt see the most
    attend(t, pages, blocks[count - 1 - task / t.G], task % t.G);
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
