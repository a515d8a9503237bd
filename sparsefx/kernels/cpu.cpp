// The sweeps of sparsefx/kernels/__init__.py over float32 weights: one pass each, no
// temporaries. Every chunk has its own place for its sums and the places are added in
// order, so the answers do not depend on the number of threads.

#include "lanes.h"

extern "C" {

// Per tensor: out = {sum of magnitudes, entries >= high, entries in [low, high)};
// ranges = {least, greatest} as bits (zeroed sums, ranges preset); the band's entries
// go to `bands` while there is room.
void survey(int64_t count, int64_t threads, const float* const* weights,
            const int64_t* sizes, const float* low, const float* high, float** bands,
            const int64_t* room, double* out, int32_t* ranges) {
  std::vector<std::atomic<int64_t>> used(count);
  std::vector<std::array<std::atomic<int32_t>, 2>> ends(count);
  for (int64_t t = 0; t < count; t++) ends[t][0] = ABS, ends[t][1] = 0, used[t] = 0;
  sweep<3>(count, sizes, threads, out, [&](int64_t t, int64_t b, int64_t e, double* s) {
    const float* w = weights[t];
    const Floats lo = all(low[t]), hi = all(high[t]);
    Sum sum;
    Ints least = Ints{} + ABS, most = {}, above = {};
    int64_t found = 0;
    float here[CHUNK + LANES];
    auto body = [&](int64_t i, int64_t n, int) INLINE {
      Floats a = magnitude(entries(w + i, n));
      Ints bits = (Ints)a, inside = lanes(n), over = (a >= hi) & inside;
      sum.part += a;
      most = bits > most ? bits : most;
      bits |= ~inside & ABS;
      least = bits < least ? bits : least;
      above -= over;
      Ints in = (a >= lo) & ~over & inside;
      if (bits_of(in))
        for (int j = 0; j < LANES; j++) here[found] = a[j], found -= in[j];
    };
    walk(b, e, 0, body, [&] { sum.flush(); });
    int32_t ends_here[2] = {ABS, 0};
    for (int j = 0; j < LANES; j++) {
      ends_here[0] = std::min(ends_here[0], least[j]);
      ends_here[1] = std::max(ends_here[1], most[j]);
    }
    int32_t seen = ends[t][0];
    while (ends_here[0] < seen && !ends[t][0].compare_exchange_weak(seen, ends_here[0]));
    seen = ends[t][1];
    while (ends_here[1] > seen && !ends[t][1].compare_exchange_weak(seen, ends_here[1]));
    int64_t place = used[t].fetch_add(found);
    if (place < room[t])
      std::memcpy(bands[t] + place, here,
                  std::min(found, room[t] - place) * sizeof(float));
    s[0] = sum.value(), s[1] = total(above), s[2] = found;
  });
  for (int64_t t = 0; t < count; t++)
    ranges[2 * t] = ends[t][0], ranges[2 * t + 1] = ends[t][1];
}

// Sorts each band, which is not negative; distinct entries from the largest, their
// counts, and how many they are, those of all bands in a row.
void distinct(int64_t count, float* const* bands, const int64_t* sizes, double* values,
              int64_t* counts, int64_t* found) {
  for (int64_t t = 0; t < count; values += found[t], counts += found[t], t++) {
    sort(bands[t], sizes[t]);
    found[t] = 0;
    for (int64_t i = sizes[t]; i > 0;) {
      float x = bands[t][i - 1];
      int64_t end = i;
      while (i > 0 && bands[t][i - 1] == x) i--;
      values[found[t]] = x, counts[found[t]++] = end - i;
    }
  }
}

// Counts of the upper 15 bits below the sign.
void histogram(const float* weight, int64_t size, int64_t* bins) {
  for (int64_t i = 0; i < size; i++) {
    uint32_t bits;
    std::memcpy(&bits, weight + i, sizeof bits);
    bins[(bits >> 16) & (BINS - 1)]++;
  }
}

// Per tensor: out = {sum m, sum m (1 - m), sum h m}.
void soft_sums(int64_t count, int64_t threads, const float* const* weights,
               const int64_t* sizes, const Mask* masks, const float* threshold,
               const int64_t* last, double* out) {
  sweep<3>(count, sizes, threads, out, [&](int64_t t, int64_t b, int64_t e, double* s) {
    const float* w = weights[t];
    const Mask mask = masks[t];
    const Rule rule(threshold[t], last[t]);
    Sum kept, spread, bought;
    auto body = [&](int64_t i, int64_t n, int side) INLINE {
      Floats a = magnitude(entries(w + i, n));
      Floats m = keep(lanes(n), soft(a, mask));
      kept.part += m;
      spread.part += (1.0f - m) * m;
      bought.part += keep(a > rule.bars[side], m);
    };
    walk(b, e, rule.split, body, [&] { kept.flush(), spread.flush(), bought.flush(); });
    s[0] = kept.value(), s[1] = spread.value(), s[2] = bought.value();
  });
}

// Writes hard masks as bits; per tensor: out = {entries kept, entries that changed}.
void hard_masks(int64_t count, int64_t threads, const float* const* weights,
                const int64_t* sizes, const float* threshold, const int64_t* last,
                uint16_t* const* into, double* out) {
  sweep<2>(count, sizes, threads, out, [&](int64_t t, int64_t b, int64_t e, double* s) {
    const Rule rule(threshold[t], last[t]);
    int64_t kept = 0, moved = 0;
    auto kept_bits = [&](int64_t i, int64_t n) INLINE {
      Floats a = magnitude(entries(weights[t] + i, n));
      Ints h = a > rule.bars[i >= rule.split];
      if (i < rule.split && rule.split < i + LANES)
        for (int64_t j = rule.split - i; j < LANES; j++) h[j] = -(a[j] > rule.bars[1]);
      return bits_of(h & lanes(n));
    };
    for (int64_t i = b; i < e; i += WORD) {  // chunks begin at whole words
      uint64_t now = 0;
      if (i + WORD <= e)
        for (int64_t k = 0; k < WORD; k += LANES) now |= kept_bits(i + k, LANES) << k;
      else
        for (int64_t k = 0; k < e - i; k += LANES)
          now |= kept_bits(i + k, std::min(LANES, e - i - k)) << k;
      uint16_t& old = into[t][i / WORD];
      kept += __builtin_popcount(now), moved += __builtin_popcount(now ^ old);
      old = now;
    }
    s[0] = kept, s[1] = moved;
  });
}

// Index of the nth entry (from 1) of that magnitude, or -1.
int64_t find(const float* weight, int64_t size, float value, int64_t nth) {
  for (int64_t i = 0; i < size; i += LANES) {
    int64_t n = std::min(LANES, size - i);
    uint64_t equal = bits_of((magnitude(entries(weight + i, n)) == value) & lanes(n));
    int64_t here = __builtin_popcountll(equal);
    for (; here >= nth && nth > 1; nth--, here--) equal &= equal - 1;
    if (here >= nth) return i + __builtin_ctzll(equal);
    nth -= here;
  }
  return -1;
}

// out = h m w, with h in bits.
void masked(int64_t threads, const float* weight, int64_t size, const double* mu,
            const double* slope, const double* center, const uint8_t* bits, float* out) {
  const Mask mask = {(float)*slope, (float)*center, (float)*mu};
  double none[1] = {};
  sweep<1>(1, &size, threads, none, [&](int64_t, int64_t b, int64_t e, double*) {
    auto body = [&](int64_t i, int64_t n, int) INLINE {
      Floats w = entries(weight + i, n), a = magnitude(w);
      put(out + i, keep(set(bits, i), w * soft(a, mask)), n);
    };
    walk(b, e, 0, body, [] {});
  });
}

// out = G (m + |w| slope s), total = sum G w s, with s = m (1 - m).
void masked_backward(int64_t threads, const float* weight, int64_t size,
                     const double* mu, const double* slope, const double* center,
                     const float* grad, float* out, double* total) {
  const Mask mask = {(float)*slope, (float)*center, (float)*mu};
  sweep<1>(1, &size, threads, total, [&](int64_t, int64_t b, int64_t e, double* s) {
    Sum pull;
    auto body = [&](int64_t i, int64_t n, int) INLINE {
      Floats w = entries(weight + i, n), a = magnitude(w), m = soft(a, mask);
      Floats v = (1.0f - m) * m, g = entries(grad + i, n);
      pull.part += g * w * v;
      put(out + i, g * (m + a * mask.slope * v), n);
    };
    walk(b, e, 0, body, [&] { pull.flush(); });
    s[0] = pull.value();
  });
}

// grad -= sign(w) factor m (1 - m).
void couple(int64_t count, int64_t threads, const float* const* weights,
            float* const* grads, const int64_t* sizes, const Mask* masks,
            const float* factor) {
  std::vector<double> none(count);
  sweep<1>(count, sizes, threads, none.data(),
           [&](int64_t t, int64_t b, int64_t e, double*) {
    auto body = [&](int64_t i, int64_t n, int) INLINE {
      Floats w = entries(weights[t] + i, n), m = soft(magnitude(w), masks[t]);
      Floats term = ((1.0f - m) * m) * factor[t];
      term = (Floats)((Ints)term ^ ((Ints)w & ~ABS));
      put(grads[t] + i, entries(grads[t] + i, n) - keep(w != 0.0f, term), n);
    };
    walk(b, e, 0, body, [] {});
  });
}

}  // extern "C"
