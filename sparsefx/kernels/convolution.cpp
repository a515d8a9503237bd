// A sparse convolution without a matrix of its windows, in float32.
//
// A step of s pixels cuts a padded channel into s x s planes that a window crosses in
// steps of one; lines of all planes are equally long. So the weight of (channel, line,
// column) multiplies the pixels of a plane from a fixed place on, and the places of
// the result are those of the plane: the sparse product, whose columns stand for
// places. What lies beyond a line's end is computed and left out.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "activations.h"
#include "product_rows.h"
#include "spread.h"

namespace {

struct Window {  // of x (batch, channels, height, width) and y (batch, rows, ...)
  int64_t batch, channels, height, width, rows, out_height, out_width;
  int64_t kernel_h, kernel_w, step_h, step_w, pad_h, pad_w, gap_h, gap_w, blocks, wide;
  int64_t line() const { return (width + 2 * pad_w + step_w - 1) / step_w; }
  int64_t pixels() const { return (out_height - 1) * line() + out_width; }
  int64_t reach() const {  // of a window, in a plane
    return (kernel_h - 1) * gap_h / step_h * line() + (kernel_w - 1) * gap_w / step_w;
  }
};
struct Plane {
  int64_t top, left;  // its first pixel in a padded channel
};
struct After {  // y = activation(scale * sum + shift), for each row
  const float *scale, *shift;
  int64_t activation;
};

// The planes that a window reads, and for each (line, column) of it plane and place.
struct Planes {
  std::vector<Plane> all;
  std::vector<int64_t> plane, place;
  explicit Planes(const Window& w) {
    for (int64_t i = 0; i < w.kernel_h; i++)
      for (int64_t j = 0; j < w.kernel_w; j++) {
        const int64_t y = i * w.gap_h, x = j * w.gap_w;
        const Plane here = {y % w.step_h, x % w.step_w};
        size_t p = 0;
        while (p < all.size() && (all[p].top != here.top || all[p].left != here.left)) p++;
        if (p == all.size()) all.push_back(here);
        plane.push_back(int64_t(p));
        place.push_back(y / w.step_h * w.line() + x / w.step_w);
      }
  }
};

struct Piece {  // numbers that lie together: where from, where to, how many
  int64_t from, to, count;
};

// Pixels of a plane from place `at` on, up to `size` of them: those that are in the
// channel as pieces of it, the others as pieces of zeros.
void cut(const Window& w, const Plane& plane, int64_t at, int64_t size, int64_t to,
         std::vector<Piece>& pixels, std::vector<Piece>& zeros) {
  const int64_t line = w.line(), step = w.step_w, left = plane.left - w.pad_w;
  const int64_t first = left < 0 ? (-left + step - 1) / step : 0;
  const int64_t last = std::max(first, (w.width - left + step - 1) / step);
  for (int64_t i = at / line, j = at % line; size > 0; i++, j = 0) {
    const int64_t n = std::min(line - j, size), y = i * w.step_h + plane.top - w.pad_h;
    const bool inside = y >= 0 && y < w.height;
    const int64_t begin = std::min(n, std::max<int64_t>(first - j, 0));
    const int64_t end = inside ? std::max(begin, std::min(n, last - j)) : begin;
    if (begin > 0) zeros.push_back({0, to, begin});
    if (end > begin)
      pixels.push_back({y * w.width + left + (j + begin) * step, to + begin, end - begin});
    if (n > end) zeros.push_back({0, to + end, n - end});
    to += n, size -= n;
  }
}

// to[i] = f(from[i]); the last vector may overlap the one before.
template <class F>
inline void each(const float* from, float* to, int64_t count, F f) {
  if (count < L) {
    for (int64_t i = 0; i < count; i++) to[i] = f(Lane{} + from[i])[0];
    return;
  }
  for (int64_t i = 0; i + L < count; i += L) store(to + i, f(load<Lane>(from + i)));
  store(to + count - L, f(load<Lane>(from + count - L)));
}

void enter(const Window& w, const std::vector<Piece>& pixels,
           const std::vector<Piece>& zeros, const float* x, float* xs) {
  for (const Piece& z : zeros)
    for (int64_t i = 0; i < z.count; i++) xs[z.to + i] = 0;
  for (const Piece& p : pixels) {
    const float* from = x + p.from;
    float* to = xs + p.to;
    if (w.step_w == 1) each(from, to, p.count, [](Lane v) { return v; });
    else if (w.step_w == 2)
      for (int64_t i = 0; i < p.count; i++) to[i] = from[2 * i];
    else
      for (int64_t i = 0; i < p.count; i++) to[i] = from[i * w.step_w];
  }
}

// Panels of `vectors` vectors of places; every `parts`th chunk from `part`.
void panel(const Window& s, const Planes& planes, const Weight<Shifted>& weight,
           const After& after, const float* x, float* y, int64_t at, int64_t vectors,
           int64_t part, int64_t parts) {
  static thread_local std::vector<float> in, out;
  static thread_local std::vector<int32_t> kept;
  static thread_local std::vector<Piece> pixels, zeros, results;
  const int64_t wide = vectors * L, span = wide + s.reach(), area = s.height * s.width;
  const int64_t count = int64_t(planes.all.size()), taps = int64_t(planes.place.size());
  // one plane, the channel itself, is read where it is; not if all begin in one set of
  // the cache, nor beyond the end
  const bool there = taps == 1 && s.pixels() == area && area % 256 && at + wide <= area;
  const float* xs = x + at;
  int64_t channel = area;
  if (!there) {
    channel = count * span;
    float* to = room(in, s.channels * channel);
    xs = to;
    pixels.clear(), zeros.clear();
    for (int64_t p = 0; p < count; p++)
      cut(s, planes.all[p], at, span, p * span, pixels, zeros);
    for (int64_t c = 0; c < s.channels; c++)
      enter(s, pixels, zeros, x + c * area, to + c * channel);
  }
  int32_t* places = room(kept, s.channels * taps);
  for (int64_t c = 0; c < s.channels; c++)
    for (int64_t t = 0; t < taps; t++)
      places[c * taps + t] =
          int32_t(c * channel + planes.plane[t] * span + planes.place[t]);
  results.clear();
  const int64_t line = s.line(), last = std::min(wide, s.pixels() - at);
  for (int64_t i = 0; i < last;) {
    const int64_t r = (at + i) / line, j = (at + i) % line;
    const int64_t n = std::min({line - j, last - i, std::max<int64_t>(s.out_width - j, 0)});
    if (n > 0) results.push_back({i, r * s.out_width + j, n});
    i += line - j;
  }
  int64_t chunk = -1;
  for (int64_t i = 0; i < s.blocks;) {
    const int64_t row = weight.blocks[i].row, rows = weight.blocks[i].rows;
    const bool mine = ++chunk % parts == part;
    float* ys = mine ? room(out, rows * wide) : nullptr;
    for (bool first = true; i < s.blocks && weight.blocks[i].row == row;
         i++, first = false) {
      if (!mine) continue;
      const Block& b = weight.blocks[i];
      Weight<Shifted> here = weight;
      here.places = places + b.feature;
      multiply_wide<Shifted, 1, 8>(vectors, b, here, xs, ys - row * wide, first);
    }
    for (int64_t r = row; mine && r < row + rows; r++) {
      const float scale = after.scale ? after.scale[r] : 1;
      const float shift = after.shift ? after.shift[r] : 0;
      for (const Piece& p : results)
        each(ys + (r - row) * wide + p.from,
             y + r * s.out_height * s.out_width + p.to, p.count, [&](Lane v) {
               return activated(after.activation, v * scale + shift);
             });
    }
  }
}

}  // namespace

extern "C" void sparse_convolution(int64_t threads, Pool pool, const Window* window,
                                   const float* x, float* y, const float* scale,
                                   const float* shift, int64_t activation, const Block* blocks,
                                   const int32_t* groups, const int32_t* rows,
                                   const int16_t* columns, const float* values) {
  const Window& s = *window;
  const Planes planes(s);
  const Weight<Shifted> weight = {blocks, groups, rows, columns, values, nullptr, nullptr};
  panels(s.batch, s.pixels(), std::min<int64_t>(s.wide, 8), threads, pool,
         [&](int64_t b, int64_t at, int64_t vectors, int64_t part, int64_t parts) {
           panel(s, planes, weight, {scale, shift, activation},
                 x + b * s.channels * s.height * s.width,
                 y + b * s.rows * s.out_height * s.out_width, at, vectors, part, parts);
         });
}
