// Large pages of memory under arrays that are read whole for every token: of pages of 4 KB the
// processor foresees no more than the rest of one, and loses time finding the next.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>

#include <mutex>
#include <set>
#include <utility>
#endif

namespace {

// Asks the system, once for an array, to put what lies in it into large pages; where it cannot, all
// stays as it is. What is written there does not change.
inline void use_large_pages([[maybe_unused]] const void* array, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  constexpr size_t kKnown = 1024;
#ifndef MADV_COLLAPSE
  constexpr int MADV_COLLAPSE = 25;  // Linux 6.1
#endif
  static std::mutex mutex;
  static std::set<std::pair<const void*, size_t>> known;
  if (bytes < 2 * kPage) return;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (known.size() > kKnown) known.clear();
    if (!known.emplace(array, bytes).second) return;
  }
  const auto start = reinterpret_cast<uintptr_t>(array);
  const uintptr_t from = (start + kPage - 1) / kPage * kPage, to = (start + bytes) / kPage * kPage;
  if (from >= to) return;
  auto* memory = reinterpret_cast<void*>(from);
  madvise(memory, to - from, MADV_HUGEPAGE);  // what is touched from now on
  madvise(memory, to - from, MADV_COLLAPSE);  // what has been
#endif
}

}  // namespace
