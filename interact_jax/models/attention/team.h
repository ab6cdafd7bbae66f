// Threads that go from one list of tasks to the next without sleeping in between: a decoded token
// has dozens of lists, and some are shorter than waking a thread takes.

#pragma once

#include <thread>

#include "cpu.h"

namespace {

class Team {
 public:
  explicit Team(ffi::ThreadPool& pool) {
    try {
      for (int64_t i = 1; i < pool.num_threads(); ++i)
        pool.Schedule([state = state_, caller = std::this_thread::get_id()] {
          if (std::this_thread::get_id() != caller) state->help();  // not where a pool is none
        });
    } catch (const std::bad_alloc&) {
      // Fewer threads do it.
    }
  }
  ~Team() { state_->over = true; }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Runs work(i) for i < tasks, the last first, on this thread and those that have come by now.
  // Where a task finds no memory, the others are done all the same, and then it throws.
  template <typename Work>
  void run(int64_t tasks, const Work& work) {
    if (tasks == 1) return work(0);
    State& state = *state_;
    state.work = &work;
    state.call = [](const void* of, int64_t i) { (*static_cast<const Work*>(of))(i); };
    state.done.store(0, std::memory_order_relaxed);
    state.left.store(tasks, std::memory_order_release);
    state.take();
    for (int looks = 0; state.done.load(std::memory_order_acquire) < tasks;) wait(looks);
    if (state.failed) throw std::bad_alloc();
  }

 private:
  // A thread that comes late finds `over`, and touches nothing but this.
  struct State {
    std::atomic<int64_t> left{0}, done{0};  // left: below 0 when threads looked for more
    std::atomic<bool> over{false}, failed{false};
    const void* work = nullptr;  // it and `call` stand while tasks are not done
    void (*call)(const void*, int64_t) = nullptr;

    void help() {
      for (int looks = 0; !over;) {
        if (left.load(std::memory_order_relaxed) > 0)
          take(), looks = 0;
        else
          wait(looks);
      }
    }
    void take() {
      for (int64_t i; (i = left.fetch_sub(1, std::memory_order_acq_rel)) > 0;) {
        try {
          call(work, i - 1);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };

  // Looks again at once for a while; then others may have the processor first.
  static void wait(int& looks) {
    constexpr int kLooks = 4000;
    if (looks < kLooks)
      ++looks, pause();
    else
      std::this_thread::yield();
  }

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace
