// Sparse weight times dense activations, for any number of tokens; in float32, or with
// weights and activations rounded to 8 bits and whole sums.
//
// Features are cut into blocks, so that the activations a block reads, as a panel of a
// few vectors of tokens, stay in the first cache; rows into chunks, so that their sums
// stay in the second. Inside of both, rows with equally many kept weights follow one
// another: the trip count of the inner loop repeats, and its exit is predicted.
// Activations are copied into panels and sums out of them, whatever their layout.

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "activations.h"
#include "product_rows.h"
#include "spread.h"

namespace {

struct Sizes {  // of x (batch, features, tokens) and y (batch, rows, tokens), strides
  int64_t batch, features, rows, tokens, xb, xk, xt, yb, yn, yt, together, blocks, wide,
      activation;
};
struct Scales {        // of whole sums: y = rows[0] * (scale * sum) + rows[1] * low + bias
  const float *rows;   // two a row, as is `bias`, which may be null
  const float *bias;
};
constexpr float TINY = 1e-30f;  // activations that differ by less count as equal

// Features by tokens as they are, zeros after the last token.
void enter(const Sizes& s, const float* x, int64_t n, int64_t wide, float* xs, float*) {
  copy(x, s.xk, s.xt, xs, wide, 1, s.features, n);
  for (int64_t k = 0; k < s.features; k++)
    std::fill(xs + k * wide + n, xs + (k + 1) * wide, 0.0f);
}

// Four features of a token in one number, x = low + scale * (0 ... 255); `ranges` has
// eight scales, then eight lows, for each vector of tokens. A token that holds what is
// no number has a scale that is none.
void enter(const Sizes& s, const float* x, int64_t n, int64_t wide, int32_t* xs,
           float* ranges) {
  static thread_local std::vector<float> kept;
  const int64_t fours = (s.features + 3) / 4;
  float* part = room(kept, 4 * fours * L);
  for (int64_t at = 0; at < wide; at += L, ranges += 2 * L) {
    const int64_t here = std::min(n - at, L);
    for (int64_t k = 0; here < L && k < s.features; k++) store(part + k * L, Lane{});
    copy(x + at * s.xt, s.xk, s.xt, part, L, 1, s.features, here);
    Lane low = load<Lane>(part), high = low;
    Whole size{};
    for (int64_t k = 0; k < s.features; k++) {
      const Lane v = load<Lane>(part + k * L);
      const Whole bits = load<Whole>(part + k * L) & 0x7fffffff;
      low = v < low ? v : low, high = v > high ? v : high;
      size = bits > size ? bits : size;
    }
    for (int64_t k = s.features; k < 4 * fours; k++) store(part + k * L, low);
    Lane scale = (high - low) * (1 / 255.0f);
    const Lane steps = scale > TINY ? 1.0f / scale : Lane{};
    scale = size < 0x7f800000 ? scale : Lane{} + NAN;
    store(ranges, scale), store(ranges + L, low);
    for (int64_t k = 0; k < fours; k++) {
      Whole four{};
      for (int64_t i = 0; i < 4; i++) {
        const Lane v = (load<Lane>(part + (4 * k + i) * L) - low) * steps + 0.5f;
        four |= __builtin_convertvector(v, Whole) << (8 * i);
      }
      store(xs + k * wide + at, four);
    }
  }
}

void leave(const Scales&, int64_t, int64_t, int64_t, float*, const float*) {}

// Whole sums become what they stand for, in their place.
void leave(const Scales& scales, int64_t row, int64_t rows, int64_t wide, int32_t* ys,
           const float* ranges) {
  for (int64_t r = row; r < row + rows; r++) {
    const float bias = scales.bias ? scales.bias[r] : 0;
    const float scale = scales.rows[2 * r], offset = scales.rows[2 * r + 1];
    const float* range = ranges;
    for (int64_t at = 0; at < wide; at += L, ys += L, range += 2 * L) {
      const Lane sum = __builtin_convertvector(load<Whole>(ys), Lane);
      store(ys, sum * (load<Lane>(range) * scale) + (load<Lane>(range + L) * offset + bias));
    }
  }
}

// One panel of `vectors` vectors of tokens, and every `parts`th chunk from `part`.
template <class Kind>
void panel(const Sizes& s, const Weight<Kind>& w, const Scales& scales, const float* x,
           float* y, int64_t token, int64_t vectors, int64_t part, int64_t parts) {
  typedef typename Kind::Number Number;
  constexpr bool real = std::is_same<Kind, Real>::value;
  static thread_local std::vector<Number> in, out;
  static thread_local std::vector<float> kept;
  const int64_t n = std::min(vectors * L, s.tokens - token);
  const bool single = real && n == 1;
  const int64_t wide = single ? 1 : vectors * L;
  Number* xs = room(in, (real ? s.features : (s.features + 3) / 4) * wide);
  float* ranges = room(kept, 2 * wide);
  enter(s, x + token * s.xt, n, wide, xs, ranges);
  int64_t chunk = -1;
  for (int64_t i = 0; i < s.blocks;) {
    const int64_t row = w.blocks[i].row, rows = w.blocks[i].rows;
    const bool mine = ++chunk % parts == part;
    Number* ys = mine ? room(out, rows * wide) : nullptr;
    const bool direct = single && s.yn == 1;
    if constexpr (real)
      if (direct && mine) ys = y + token * s.yt + row;
    for (bool first = true; i < s.blocks && w.blocks[i].row == row; i++, first = false) {
      if (!mine) continue;
      const Block& b = w.blocks[i];
      const Number* at = xs + b.feature * wide;
      if constexpr (real) {
        if (single && s.together == 4) multiply_one<4>(b, w, at, ys - row, first);
        else if (single) multiply_one<1>(b, w, at, ys - row, first);
        else if (s.together == 4)
          multiply_wide<Kind, 4, 3>(vectors, b, w, at, ys - row * wide, first);
      }
      if (!real || !(single || s.together == 4))
        multiply_wide<Kind, 1, 13>(vectors, b, w, at, ys - row * wide, first);
    }
    if (!mine) continue;
    leave(scales, row, rows, wide, ys, ranges);
    activate(s.activation, reinterpret_cast<float*>(ys), rows * wide);
    if (direct) continue;
    copy(reinterpret_cast<float*>(ys), wide, 1, y + row * s.yn + token * s.yt, s.yn,
         s.yt, rows, n);
  }
}

template <class Kind>
void product(int64_t threads, Pool pool, const Sizes& s, const Weight<Kind>& w,
             const Scales& scales, const float* x, float* y) {
  const int64_t most = std::min<int64_t>(s.wide, s.together == 1 ? 13 : 3);
  panels(s.batch, s.tokens, most, threads, pool,
         [&](int64_t b, int64_t at, int64_t vectors, int64_t part, int64_t parts) {
           panel(s, w, scales, x + b * s.xb, y + b * s.yb, at, vectors, part, parts);
         });
}

}  // namespace

// `values` are float32, or four int8 a piece where there are `scales`.
extern "C" void sparse_product(int64_t threads, Pool pool, const Sizes* sizes,
                               const float* x, float* y, const float* bias,
                               const Block* blocks, const int32_t* groups,
                               const int32_t* rows, const int16_t* columns,
                               const void* values, const float* scales) {
  if (scales) {
    const auto whole = static_cast<const int32_t*>(values);
    const Weight<Byte> w = {blocks, groups, rows, columns, whole, nullptr, nullptr};
    return product(threads, pool, *sizes, w, {scales, bias}, x, y);
  }
  const auto real = static_cast<const float*>(values);
  const Weight<Real> w = {blocks, groups, rows, columns, real, bias, nullptr};
  product(threads, pool, *sizes, w, {nullptr, nullptr}, x, y);
}
