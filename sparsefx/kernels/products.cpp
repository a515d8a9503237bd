// Sparse weight times dense activations, float32, for any number of tokens.
//
// Features are cut into blocks, so that the activations a block reads, as a panel of a
// few vectors of tokens, stay in the first cache; rows into chunks, so that their sums
// stay in the second. Inside of both, rows with equally many kept weights follow one
// another: the trip count of the inner loop repeats, and its exit is predicted.
// Activations are copied into panels and sums out of them, whatever their layout.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int64_t L = 8;  // also where vectors are longer: only these were measured
typedef float Lane __attribute__((vector_size(4 * L)));

inline Lane load(const float* p) {
  Lane x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, Lane x) { std::memcpy(p, &x, sizeof x); }

struct Sizes {  // of x (batch, features, tokens) and y (batch, rows, tokens), strides
  int64_t batch, features, rows, tokens, xb, xk, xt, yb, yn, yt, together, blocks, wide;
};
struct Block {  // what a chunk of rows has in a block of features
  int64_t row, rows, feature, group, end, segment, entry;
};
struct Weight {
  const Block* blocks;
  const int32_t* groups;  // {kept entries of a row, rows} in order
  const int32_t* rows;    // of each segment
  const int16_t* columns;  // from the block's first feature
  const float *values, *bias;
};

// R rows (of G outputs that share their columns) with `count` entries each.
template <int NV, int R, int G>
__attribute__((always_inline)) inline void segments(const float* x, float* y, const int32_t* rows,
                     const int16_t* columns, const float* values, int64_t count,
                     const float* bias, bool first) {
  constexpr int64_t wide = NV * L;
  Lane sum[R * G][NV];
  float* into[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) into[r] = y + int64_t(rows[r]) * G * wide;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) {
      const float start = first && bias ? bias[int64_t(rows[r]) * G + g] : 0;
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++)
        sum[r * G + g][j] = first ? Lane{} + start : load(into[r] + g * wide + j * L);
    }
  for (int64_t c = 0; c < count; c++)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const float* p = x + columns[r * count + c] * wide;
      const float* v = values + (r * count + c) * G;
      Lane part[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) part[j] = load(p + j * L);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++)
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) sum[r * G + g][j] += v[g] * part[j];
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++)
        store(into[r] + g * wide + j * L, sum[r * G + g][j]);
}

template <int NV, int G>
__attribute__((noinline)) void multiply(const Block& b, const Weight& w, const float* x,
                                        float* y, bool first) {
  constexpr int R = G > 1 ? 1 : NV == 1 ? 8 : NV <= 3 ? 4 : NV <= 6 ? 2 : 1;
  const int32_t* rows = w.rows + b.segment;
  const int16_t* columns = w.columns + b.entry;
  const float* values = w.values + b.entry * G;
  for (int64_t g = b.group; g < b.end; g++) {
    const int64_t count = w.groups[2 * g];
    int64_t left = w.groups[2 * g + 1];
    for (; left >= R; left -= R) {
      segments<NV, R, G>(x, y, rows, columns, values, count, w.bias, first);
      rows += R, columns += R * count, values += R * count * G;
    }
    if (R > 1)
      for (; left; left--) {
        segments<NV, 1, G>(x, y, rows, columns, values, count, w.bias, first);
        rows++, columns += count, values += count * G;
      }
  }
}

// The same for one token: x is a vector.
template <int G>
void multiply_one(const Block& b, const Weight& w, const float* x, float* y,
                  bool first) {
  const int32_t* rows = w.rows + b.segment;
  const int16_t* columns = w.columns + b.entry;
  const float* values = w.values + b.entry * G;
  for (int64_t g = b.group; g < b.end; g++) {
    const int64_t count = w.groups[2 * g];
    for (int64_t left = w.groups[2 * g + 1]; left; left--, rows++) {
      float sum[4][G] = {};
      int64_t c = 0;
      for (; c + 4 <= count; c += 4)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++)
#pragma GCC unroll 4
          for (int i = 0; i < G; i++)
            sum[u][i] += values[(c + u) * G + i] * x[columns[c + u]];
      for (; c < count; c++)
        for (int i = 0; i < G; i++) sum[0][i] += values[c * G + i] * x[columns[c]];
      for (int i = 0; i < G; i++) {
        const int64_t row = int64_t(*rows) * G + i;
        const float all = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
        y[row] = all + (!first ? y[row] : w.bias ? w.bias[row] : 0);
      }
      columns += count, values += count * G;
    }
  }
}

void multiply_wide(int64_t vectors, int64_t together, const Block& b, const Weight& w,
                   const float* x, float* y, bool first) {
  if (together == 4) switch (vectors) {
      case 1: return multiply<1, 4>(b, w, x, y, first);
      case 2: return multiply<2, 4>(b, w, x, y, first);
      default: return multiply<3, 4>(b, w, x, y, first);
    }
  switch (vectors) {
    case 1: return multiply<1, 1>(b, w, x, y, first);
    case 2: return multiply<2, 1>(b, w, x, y, first);
    case 3: return multiply<3, 1>(b, w, x, y, first);
    case 4: return multiply<4, 1>(b, w, x, y, first);
    case 5: return multiply<5, 1>(b, w, x, y, first);
    case 6: return multiply<6, 1>(b, w, x, y, first);
    case 7: return multiply<7, 1>(b, w, x, y, first);
    case 8: return multiply<8, 1>(b, w, x, y, first);
    case 9: return multiply<9, 1>(b, w, x, y, first);
    case 10: return multiply<10, 1>(b, w, x, y, first);
    case 11: return multiply<11, 1>(b, w, x, y, first);
    case 12: return multiply<12, 1>(b, w, x, y, first);
    default: return multiply<13, 1>(b, w, x, y, first);
  }
}

// Rows become columns.
inline void transpose(Lane a[L]) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
#define PAIRS(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
  Lane b[L];
  for (int i = 0; i < 8; i += 2) {
    b[i] = PAIRS(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    b[i + 1] = PAIRS(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; k++) {
      a[i + 2 * k] = PAIRS(b[i + k], b[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + 2 * k + 1] = PAIRS(b[i + k], b[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; i++) {
    b[i] = PAIRS(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = PAIRS(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#undef PAIRS
  std::memcpy(a, b, sizeof b);
#else
  for (int i = 0; i < L; i++)
    for (int j = 0; j < i; j++) {
      const float x = a[i][j];
      a[i][j] = a[j][i], a[j][i] = x;
    }
#endif
}

// to[i * ti + j * tj] = from[i * fi + j * fj] for i < m, j < n: tiles of L by L.
void copy(const float* from, int64_t fi, int64_t fj, float* to, int64_t ti, int64_t tj,
          int64_t m, int64_t n) {
  if (fj == 1 && tj == 1) {
    for (int64_t i = 0; i < m; i++)
      std::memcpy(to + i * ti, from + i * fi, n * sizeof *to);
    return;
  }
  const bool turned = (fi == 1 && tj == 1) || (fj == 1 && ti == 1);
  for (int64_t j = 0; j < n; j += L)
    for (int64_t i = 0; i < m; i += L) {
      const float* p = from + i * fi + j * fj;
      float* q = to + i * ti + j * tj;
      if (turned && i + L <= m && j + L <= n) {
        Lane tile[L];
        for (int64_t u = 0; u < L; u++) tile[u] = load(p + u * (fi == 1 ? fj : fi));
        transpose(tile);
        for (int64_t u = 0; u < L; u++) store(q + u * (ti == 1 ? tj : ti), tile[u]);
        continue;
      }
      for (int64_t u = 0; u < std::min(L, m - i); u++)
        for (int64_t v = 0; v < std::min(L, n - j); v++)
          q[u * ti + v * tj] = p[u * fi + v * fj];
    }
}

float* room(std::vector<float>& kept, int64_t size) {
  if (int64_t(kept.size()) < size + 16) kept.resize(size + 16);
  return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) / 4 % 16;
}

// One panel of `vectors` vectors of tokens, and every `parts`th chunk from `part`.
void panel(const Sizes& s, const Weight& w, const float* x, float* y, int64_t token,
           int64_t vectors, int64_t part, int64_t parts) {
  static thread_local std::vector<float> in, out;
  const int64_t n = std::min(vectors * L, s.tokens - token);
  const int64_t wide = n == 1 ? 1 : vectors * L;
  float* xs = room(in, s.features * wide);
  copy(x + token * s.xt, s.xk, s.xt, xs, wide, 1, s.features, n);
  for (int64_t k = 0; k < s.features; k++)
    std::fill(xs + k * wide + n, xs + (k + 1) * wide, 0.0f);
  int64_t chunk = -1;
  for (int64_t i = 0; i < s.blocks;) {
    const int64_t row = w.blocks[i].row, rows = w.blocks[i].rows;
    const bool mine = ++chunk % parts == part;
    float* ys = mine ? room(out, rows * wide) : nullptr;
    const bool direct = n == 1 && s.yn == 1;
    if (direct && mine) ys = y + token * s.yt + row;
    for (bool first = true; i < s.blocks && w.blocks[i].row == row; i++, first = false) {
      if (!mine) continue;
      const Block& b = w.blocks[i];
      const float* at = xs + b.feature * wide;
      if (n > 1) multiply_wide(vectors, s.together, b, w, at, ys - row * wide, first);
      else if (s.together == 4) multiply_one<4>(b, w, at, ys - row, first);
      else multiply_one<1>(b, w, at, ys - row, first);
    }
    if (mine && !direct)
      copy(ys, wide, 1, y + row * s.yn + token * s.yt, s.yn, s.yt, rows, n);
  }
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

}  // namespace

extern "C" void sparse_product(int64_t threads, Pool pool, const Sizes* sizes,
                               const float* x, float* y, const Block* blocks,
                               const int32_t* groups, const int32_t* rows,
                               const int16_t* columns, const float* values,
                               const float* bias) {
  const Sizes& s = *sizes;
  const Weight w = {blocks, groups, rows, columns, values, bias};
  const int64_t vectors = (s.tokens + L - 1) / L;
  const int64_t most = std::min<int64_t>(s.wide, s.together == 1 ? 13 : 3);
  const int64_t panels = (vectors + most - 1) / most;
  const int64_t whole = std::max<int64_t>(1, s.batch * panels);
  const int64_t parts = (threads + whole - 1) / whole;
  spread(s.batch * panels * parts, threads, pool, [&](int64_t task) {
    const int64_t part = task % parts, p = task / parts % panels;
    const int64_t b = task / parts / panels;
    const int64_t at = p * (vectors / panels) + std::min(p, vectors % panels);
    panel(s, w, x + b * s.xb, y + b * s.yb, at * L,
          vectors / panels + (p < vectors % panels), part, parts);
  });
}
