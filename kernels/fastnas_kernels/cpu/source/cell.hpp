// What is common to both directions: the cell as it is handed over, memory, and how images become vectors.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "depthwise.hpp"
#include "lanes.hpp"
#include "pointwise.hpp"

// Everything from Python, in this order. Tables are those of the lowered plan; images are [N, H, W, channels].
struct Cell {
  Index images, height, width, out_height, out_width;
  Index channels, mixed, k, num_inputs, num_nodes, stride;
  Index num_edges, num_branches, num_sources;
  Index frozen, threads, chunk_bytes;
  double eps;
  const int32_t *branches, *edges, *ranges, *sum_rows;
  ConstImage inputs;
  const Real *packed, *mix, *edge_mix;
  Image nodes;
  Real* stats;
  // Backward only; a null pointer in place of a gradient that nobody asked for
  ConstImage dnodes;
  Image dinputs;
  Real *dpacked, *sums, *passed;
};

struct Branch {
  int32_t kernel, dilation, origin, depthwise, pointwise, reads, coefficient, target, slot, read_by;
};

struct Edge {
  int32_t source, skip, max_pool, max_pool_row, avg_pool, avg_pool_row, node;
};

struct Range {
  int32_t first, middle, last;
};

// Hands out memory that begins at a multiple of a vector; with no memory at all it counts what would be needed.
class Memory {
 public:
  explicit Memory(char* begin) : begin_(begin) {}

  template <class T = Vector>
  T* take(Index count) {
    T* place = begin_ ? reinterpret_cast<T*>(begin_ + used_) : nullptr;
    used_ += (count * Index(sizeof(T)) + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES;
    return place;
  }

  Image take_image(Index count) {
#ifdef DUAL
    return {take<Number>(count), take<Number>(count)};
#else
    return take<Number>(count);
#endif
  }

  Index used() const { return used_; }

 private:
  char* begin_;
  Index used_ = 0;
};

// run(i) for i < count, each thread a stretch of them; run(i, thread) if it takes the thread's number.
template <class Run>
inline void parallel(Index threads, Index count, Run run) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(int(threads)) if (count > 1 && threads > 1)
  for (Index i = 0; i < count; i++) run(i, Index(omp_get_thread_num()));
#else
  for (Index i = 0; i < count; i++) run(i, Index(0));
#endif
}

struct State {
  ConstImage base;
  Index height, width, pitch, stride;

  Index image() const { return height * width * pitch; }
};

// Sizes of a cell whose vectors hold BLOCK channels each, and the way from images to vectors and back.
struct Shape {
  static constexpr int SHARE = LANES / BLOCK;  // images in one vector

  const Cell& cell;
  int blocks;
  Index groups, pixels;

  explicit Shape(const Cell& c)
      : cell(c),
        blocks(int((c.mixed + BLOCK - 1) / BLOCK)),
        groups((c.images + SHARE - 1) / SHARE),
        pixels(c.out_height * c.out_width) {}

  Index plane() const { return blocks * pixels; }  // vectors of one group at the output's resolution

  const Branch& branch(Index b) const { return reinterpret_cast<const Branch*>(cell.branches)[b]; }
  const Edge& edge(Index e) const { return reinterpret_cast<const Edge*>(cell.edges)[e]; }
  const Range& range(Index s) const { return reinterpret_cast<const Range*>(cell.ranges)[s]; }

  State state(Index number) const {
    if (number < cell.num_inputs) {
      const Index size = cell.images * cell.height * cell.width * cell.channels;
      return {cell.inputs + number * size, cell.height, cell.width, cell.channels, cell.stride};
    }
    return {cell.nodes + (number - cell.num_inputs) * cell.channels, cell.out_height, cell.out_width, cell.num_nodes * cell.channels, 1};
  }

  Filter filter(Index b) const {
    const Branch& of = branch(b);
    const bool strided = of.reads < 0 && source_stride(b) == 2;
    return {of.kernel, of.dilation, of.origin, strided ? 2 : 1};
  }

  Index source_stride(Index b) const {
    for (Index s = 0; s < cell.num_sources; s++)
      if (b < range(s).last) return s < cell.num_inputs ? cell.stride : 1;
    return 1;
  }

  // One pixel of all images of a group: BLOCK channels `step` apart.
  Vector load(ConstImage at, Index image, Index group, int block, Index step = 1) const {
    const Index live = std::min<Index>(SHARE, cell.images - group * SHARE);
    const Index count = std::min<Index>(BLOCK, cell.mixed - block * BLOCK);
    return of_image(at + (group * SHARE * image + block * BLOCK * step), [&](const Number* from) {
      alignas(VECTOR_BYTES) Number lanes[LANES] = {};
      if (step == 1 && count == BLOCK) {
        for (Index g = 0; g < live; g++) std::memcpy(lanes + g * BLOCK, from + g * image, BLOCK * sizeof(Number));
      } else {
        for (Index g = 0; g < live; g++)
          for (Index c = 0; c < count; c++) lanes[g * BLOCK + c] = from[g * image + c * step];
      }
      Numbers v;
      std::memcpy(&v, lanes, sizeof v);
      return v;
    });
  }

  void store(Vector v, Image at, Index image, Index group, int block, Index step = 1) const {
    const Index live = std::min<Index>(SHARE, cell.images - group * SHARE);
    const Index count = std::min<Index>(BLOCK, cell.mixed - block * BLOCK);
    to_image(v, at + (group * SHARE * image + block * BLOCK * step), [&](Numbers numbers, Number* to) {
      alignas(VECTOR_BYTES) Number lanes[LANES];
      std::memcpy(lanes, &numbers, sizeof lanes);
      if (step == 1 && count == BLOCK) {
        for (Index g = 0; g < live; g++) std::memcpy(to + g * image, lanes + g * BLOCK, BLOCK * sizeof(Number));
      } else {
        for (Index g = 0; g < live; g++)
          for (Index c = 0; c < count; c++) to[g * image + c * step] = lanes[g * BLOCK + c];
      }
    });
  }

  // The numbers of all channels in `row`, repeated for every image of a vector.
  Vector repeated(const Real* row, int block) const {
    alignas(VECTOR_BYTES) Real lanes[LANES] = {};
    const Index count = std::min<Index>(BLOCK, cell.mixed - block * BLOCK);
    for (int g = 0; g < SHARE; g++)
      for (Index c = 0; c < count; c++) lanes[g * BLOCK + c] = row[block * BLOCK + c];
    return from_lanes(lanes, AllLanes());
  }

  // One where a lane belongs to an image, zero in those of the last group that are left over.
  Vector live_lanes(Index group) const {
    alignas(VECTOR_BYTES) Real lanes[LANES] = {};
    for (int g = 0; g < SHARE; g++)
      if (group * SHARE + g < cell.images)
        for (int c = 0; c < BLOCK; c++) lanes[g * BLOCK + c] = 1;
    return from_lanes(lanes, AllLanes());
  }

  // For each channel the sum over all images of partial sums `[group][..][block]`, groups `pitch` vectors apart.
  void total(const Vector* partial, Index pitch, Real* out) const {
    for (Index c = 0; c < cell.mixed; c++) {
      Real sum = 0;
      for (Index group = 0; group < groups; group++)
        for (int g = 0; g < SHARE; g++) sum += lane(partial + group * pitch + c / BLOCK, g * BLOCK + c % BLOCK);
      out[c] = sum;
    }
  }
};

// Filters as vectors: `depthwise[block * taps + tap]`, `pointwise[in * blocks + block]` and the latter turned.
struct Filters {
  Vector *depthwise, *pointwise, *turned;
};

inline Filters take_filters(const Shape& shape, Memory& memory, Index b, bool back) {
  const Index taps = shape.branch(b).kernel * shape.branch(b).kernel, square = Index(BLOCK) * shape.blocks * shape.blocks;
  return {memory.take(taps * shape.blocks), memory.take(square), back ? memory.take(square) : nullptr};
}

inline void fill_filters(const Shape& shape, Index b, const Filters& filters) {
  const Branch& of = shape.branch(b);
  const Index taps = of.kernel * of.kernel, c = shape.cell.mixed;
  const Real* packed = shape.cell.packed;
  for (int block = 0; block < shape.blocks; block++) {
    for (Index t = 0; t < taps; t++)
      filters.depthwise[block * taps + t] = shape.repeated(packed + of.depthwise + t * c, block);
    for (Index in = 0; in < Index(BLOCK) * shape.blocks; in++) {
      const Index place = in * shape.blocks + block;
      filters.pointwise[place] = in < c ? shape.repeated(packed + of.pointwise + in * c, block) : Vector{};
      if (!filters.turned) continue;
      alignas(VECTOR_BYTES) Real lanes[LANES] = {};
      for (int i = 0; i < LANES; i++) {
        const Index out = block * BLOCK + i % BLOCK;
        if (in < c && out < c) lanes[i] = packed[of.pointwise + out * c + in];
      }
      filters.turned[place] = from_lanes(lanes, AllLanes());
    }
  }
}

// Depthwise and 1x1 convolution of one group; `t` keeps the former's output if `keep`, otherwise it is scratch.
inline void stage(const Shape& shape, const Filter& filter, const Filters& weights, const Vector* in,
                  const Padded& padded, Vector* t, bool keep, Vector* z) {
  const Index width = shape.cell.out_width, height = shape.cell.out_height;
  // 8 KiB stay in the first cache
  const Index rows = std::min(height, std::max<Index>(1, Index(8192 / sizeof(Vector)) / (width * shape.blocks)));
  for (Index first = 0; first < height; first += rows) {
    const Index last = std::min(height, first + rows);
    const Index t_plane = keep ? shape.pixels : rows * width;
    Vector* band = keep ? t + first * width : t;
    for (int block = 0; block < shape.blocks; block++) {
      Vector* out = band + block * t_plane;
      convolve(filter, weights.depthwise + block * filter.taps(), in + block * padded.size(), padded, first, last, width,
               [&](Index y, Index x, Vector v) { out[(y - first) * width + x] = v; });
    }
    multiply(z + first * width, shape.pixels, band, t_plane, (last - first) * width, weights.pointwise,
                    shape.blocks);
  }
}

// Mean and reciprocal deviation of a row of statistics as vectors.
struct Normal {
  Vector mean, rstd;

  Normal(const Shape& shape, Index row, int block)
      : mean(shape.repeated(shape.cell.stats + row * 3 * shape.cell.mixed, block)),
        rstd(shape.repeated(shape.cell.stats + (row * 3 + 1) * shape.cell.mixed, block)) {}

  Vector operator()(Vector z) const { return (z - mean) * rstd; }
};

// The normalised and rectified output of branch `row`, of one group, with a border: what the second half of a
// separable convolution reads. Lanes of no image are zero.
inline void fill_middle(const Shape& shape, Index row, Index group, const Vector* z, const Padded& padded,
                        Vector* out) {
  const Vector live = shape.live_lanes(group);
  for (int block = 0; block < shape.blocks; block++) {
    Normal normal(shape, row, block);
    normal.rstd *= live;
    const Vector* plane = z + block * shape.pixels;
    fill_padded(out + block * padded.size(), padded,
                [&](Index y, Index x) { return rectified(normal(plane[y * padded.width + x])); });
  }
}

// of_pixel(0) + of_pixel(1) + ... over one plane, rows apart: sums of few numbers round less. Several rows at a time, for
// an addition waits for the one before it.
template <class Of>
inline Vector sum_of(const Shape& shape, Of of_pixel) {
  Vector total = {};
  const Index width = shape.cell.out_width;
  Index i = 0;
  auto run = [&]<int ROWS>(std::integral_constant<int, ROWS>) {
    Vector sums[ROWS];
    for_each<ROWS>([&](auto r) { sums[r] = Vector{}; });
    for (Index x = 0; x < width; x++) for_each<ROWS>([&](auto r) { sums[r] += of_pixel(i + r * width + x); });
    for_each<ROWS>([&](auto r) { total += sums[r]; });
    i += ROWS * width;
  };
  while (shape.pixels - i >= 4 * width) run(std::integral_constant<int, 4>());
  while (i < shape.pixels) run(std::integral_constant<int, 1>());
  return total;
}

// A source state as vectors: as it is, and rectified within a border that all its filters stay in.
inline void fill_state(const Shape& shape, const State& state, Index group, Vector* raw, const Padded& padded,
                       Vector* rectified_state) {
  for (int block = 0; block < shape.blocks; block++) {
    Vector* plane = raw + block * state.height * state.width;
    for (Index i = 0; i < state.height * state.width; i++)
      plane[i] = shape.load(state.base + i * state.pitch, state.image(), group, block);
    fill_padded(rectified_state + block * padded.size(), padded,
                [&](Index y, Index x) { return rectified(plane[y * state.width + x]); });
  }
}

// The border that all filters that read `source`, or all second halves if `middle`, stay in.
inline Index widest(const Shape& shape, Index source, bool middle) {
  const Range& range = shape.range(source);
  Index border = 0;
  for (Index b = middle ? range.middle : range.first; b < (middle ? range.last : range.middle); b++)
    border = std::max(border, shape.filter(b).reach());
  return border;
}
