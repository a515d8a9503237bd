// Panels of tokens over torch's own threads.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "panel_copy.h"

namespace {

template <class T>
T* room(std::vector<T>& kept, int64_t size) {
  if (int64_t(kept.size()) < size + 16) kept.resize(size + 16);
  return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) / 4 % 16;
}

typedef void (*Pool)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel

template <class Body>
void spread(int64_t tasks, int64_t threads, Pool pool, Body body) {
  struct Work {
    Body& body;
    int64_t tasks;
    std::atomic<int64_t> next;
    static void run(void* p) {
      Work& work = *static_cast<Work*>(p);
      for (int64_t t; (t = work.next++) < work.tasks;) work.body(t);
    }
  } work{body, tasks, {0}};
  threads = std::min(threads, tasks);
  if (threads <= 1) return Work::run(&work);
  if (pool) return pool(Work::run, &work, unsigned(threads), 0);
  std::vector<std::thread> others;
  for (int64_t t = 1; t < threads; t++) others.emplace_back(Work::run, &work);
  Work::run(&work);
  for (auto& thread : others) thread.join();
}

// Calls body(batch, token, vectors, part, parts) for panels of at most `most` vectors of
// tokens, about equally many each; and for parts of their rows, where threads are more.
template <class Body>
void panels(int64_t batch, int64_t tokens, int64_t most, int64_t threads, Pool pool,
            Body body) {
  const int64_t vectors = (tokens + L - 1) / L, count = (vectors + most - 1) / most;
  const int64_t whole = std::max<int64_t>(1, batch * count);
  const int64_t parts = (threads + whole - 1) / whole;
  spread(batch * count * parts, threads, pool, [&](int64_t task) {
    const int64_t part = task % parts, p = task / parts % count;
    const int64_t at = p * (vectors / count) + std::min(p, vectors % count);
    body(task / parts / count, at * L, vectors / count + (p < vectors % count), part,
         parts);
  });
}

}  // namespace
