// A cell forward: state by state, a few branches at a time, whose outputs are added to their nodes while they are warm.
#pragma once

#include "cell.hpp"
#include "pools.hpp"

class Forward {
 public:
  Forward(const Cell& cell, Memory& memory) : shape_(cell), filters_(memory.take<Filters>(cell.num_branches)) {
    Index inputs = 0, raw = shape_.plane(), border = 0, middle = 0;
    for (Index s = 0; s < cell.num_sources; s++) {
      const State state = shape_.state(s);
      const Padded padded{state.height, state.width, widest(shape_, s, false)};
      inputs = std::max(inputs, shape_.blocks * padded.size());
      raw = std::max(raw, shape_.blocks * state.height * state.width);
      border = std::max(border, widest(shape_, s, true));
      middle = std::max<Index>(middle, shape_.range(s).middle - shape_.range(s).first);
    }
    middle_ = {cell.out_height, cell.out_width, border};
    for (Index b = 0; b < cell.num_branches; b++) {
      const Filters of = take_filters(shape_, memory, b, false);
      if (filters_) filters_[b] = of;
    }
    const Index bytes = 2 * shape_.groups * shape_.plane() * Index(sizeof(Vector));
    chunk_ = std::max<Index>(1, std::min<Index>(middle, cell.chunk_bytes / bytes));
    rectified_ = memory.take(shape_.groups * inputs);
    raw_ = memory.take(shape_.groups * raw);
    z_ = memory.take(2 * chunk_ * shape_.groups * shape_.plane());
    pools_ = memory.take(2 * shape_.groups * shape_.plane());
    nodes_ = memory.take(cell.num_nodes * shape_.groups * shape_.plane());
    partial_ = memory.take(std::max<Index>(2, chunk_) * shape_.groups * 2 * shape_.blocks);
    scratch_size_ = shape_.blocks * middle_.size() + shape_.plane();
    scratch_ = memory.take(cell.threads * scratch_size_);
    row_ = memory.take<Real>(cell.k > 1 ? 3 * cell.threads * cell.out_width * cell.channels : 0);
  }

  void run() {
    const Cell& cell = shape_.cell;
    parallel(cell.threads, cell.num_branches, [&](Index b, Index) { fill_filters(shape_, b, filters_[b]); });
    const Index size = shape_.plane();
    parallel(cell.threads, cell.num_nodes * shape_.groups, [&](Index i, Index) {
      std::fill(nodes_ + i * size, nodes_ + (i + 1) * size, Vector{});
    });
    for (Index number = 0; number < cell.num_inputs + cell.num_nodes; number++) {
      if (number >= cell.num_inputs) finish_node(number - cell.num_inputs);
      if (number < cell.num_sources) expand(number);
    }
  }

 private:
  Vector* z(Index unit, int half, Index group) const {
    return z_ + ((2 * unit + half) * shape_.groups + group) * shape_.plane();
  }
  Vector* node(Index number, Index group) const { return nodes_ + (number * shape_.groups + group) * shape_.plane(); }
  Vector* partial(Index row, Index group) const {
    return partial_ + (row * shape_.groups + group) * 2 * shape_.blocks;
  }

  // Mean and squared deviations of one group of images, for each lane.
  void describe(const Vector* values, Vector* out) const {
    for (int block = 0; block < shape_.blocks; block++) {
      const Vector* v = values + block * shape_.pixels;
      const Vector mean = sum_of(shape_, [&](Index i) { return v[i]; }) / all(Real(shape_.pixels));
      out[block] = mean;
      out[shape_.blocks + block] = sum_of(shape_, [&](Index i) { return (v[i] - mean) * (v[i] - mean); });
    }
  }

  // Merges what the groups found into a row of statistics: images hold equally many pixels.
  void finalise(const Vector* of_groups, Index row) const {
    const Cell& cell = shape_.cell;
    constexpr int SHARE = Shape::SHARE;
    for (Index c = 0; c < cell.mixed; c++) {
      auto at = [&](Index image, int which) {
        const Vector* v = of_groups + (image / SHARE * 2 + which) * shape_.blocks + c / BLOCK;
        return lane(v, image % SHARE * BLOCK + c % BLOCK);
      };
      Real mean = 0, squares = 0;
      for (Index i = 0; i < cell.images; i++) mean += at(i, 0);
      mean /= Real(cell.images);
      for (Index i = 0; i < cell.images; i++) {
        const Real apart = at(i, 0) - mean;
        squares += at(i, 1) + Real(shape_.pixels) * apart * apart;
      }
      const Real variance = squares / Real(cell.images * shape_.pixels);
      Real* stats = cell.stats + row * 3 * cell.mixed + c;
      stats[0] = mean;
      using std::sqrt;  // or that of dual numbers
      stats[cell.mixed] = 1 / sqrt(variance + Real(cell.eps));
      stats[2 * cell.mixed] = variance;
    }
  }

  void expand(Index source) {
    const Cell& cell = shape_.cell;
    const State state = shape_.state(source);
    const Padded padded{state.height, state.width, widest(shape_, source, false)};
    const Index padded_size = shape_.blocks * padded.size(), raw_size = shape_.blocks * state.height * state.width;
    bool leaves = false;
    Index pool_rows[2] = {-1, -1};
    for (Index e = 0; e < cell.num_edges; e++) {
      const Edge& edge = shape_.edge(e);
      if (edge.source != source) continue;
      leaves = true;
      if (edge.max_pool >= 0) pool_rows[0] = edge.max_pool_row;
      if (edge.avg_pool >= 0) pool_rows[1] = edge.avg_pool_row;
    }
    if (!leaves) return;
    const bool pooled = pool_rows[0] >= 0 || pool_rows[1] >= 0;
    parallel(cell.threads, shape_.groups, [&](Index group, Index) {
      Vector* raw = raw_ + group * raw_size;
      fill_state(shape_, state, group, raw, padded, rectified_ + group * padded_size);
      if (!pooled) return;
      for (int block = 0; block < shape_.blocks; block++)
        pool(raw + block * state.height * state.width, state, cell.out_height, cell.out_width,
             [&](Index y, Index x, Vector highest, Mask, Vector average, int) {
               const Index at = block * shape_.pixels + y * cell.out_width + x;
               pools(0, group)[at] = highest;
               pools(1, group)[at] = average;
             });
      if (cell.frozen) return;
      for (int kind = 0; kind < 2; kind++) describe(pools(kind, group), partial(kind, group));
    });
    if (!cell.frozen)
      for (int kind = 0; kind < 2; kind++)
        if (pool_rows[kind] >= 0) finalise(partial(kind, 0), pool_rows[kind]);
    parallel(cell.threads, shape_.groups, [&](Index group, Index) { add_shared(source, group, raw_ + group * raw_size); });
    const Range& range = shape_.range(source);
    for (Index first = range.first; first < range.middle; first += chunk_)
      evaluate(first, std::min<Index>(range.middle, first + chunk_), padded, padded_size);
  }

  Vector* pools(int kind, Index group) const { return pools_ + (kind * shape_.groups + group) * shape_.plane(); }

  // The branches [first, last), which read the state, and those that read them.
  void evaluate(Index first, Index last, const Padded& padded, Index padded_size) {
    const Cell& cell = shape_.cell;
    const Index count = last - first;
    auto scratch = [&](Index thread) { return scratch_ + thread * scratch_size_; };
    parallel(cell.threads, shape_.groups * count, [&](Index i, Index thread) {
      const Index group = i / count, unit = i % count, b = first + unit;
      stage(shape_, shape_.filter(b), filters_[b], rectified_ + group * padded_size, padded, scratch(thread), false,
            z(unit, 0, group));
      if (!cell.frozen) describe(z(unit, 0, group), partial(unit, group));
    });
    if (!cell.frozen) parallel(cell.threads, count, [&](Index unit, Index) { finalise(partial(unit, 0), first + unit); });
    std::vector<Index> deeper;
    for (Index unit = 0; unit < count; unit++)
      if (shape_.branch(first + unit).read_by >= 0) deeper.push_back(unit);
    const Index number = Index(deeper.size());
    parallel(cell.threads, shape_.groups * number, [&](Index i, Index thread) {
      const Index group = i / number, unit = deeper[i % number], b = shape_.branch(first + unit).read_by;
      Vector* middle = scratch(thread);
      fill_middle(shape_, first + unit, group, z(unit, 0, group), middle_, middle);
      stage(shape_, shape_.filter(b), filters_[b], middle, middle_, middle + shape_.blocks * middle_.size(), false,
            z(unit, 1, group));
      if (!cell.frozen) describe(z(unit, 1, group), partial(unit, group));
    });
    if (!cell.frozen)
      parallel(cell.threads, number, [&](Index i, Index) {
        finalise(partial(deeper[i], 0), shape_.branch(first + deeper[i]).read_by);
      });
    parallel(cell.threads, shape_.groups, [&](Index group, Index) {
      for (Index unit = 0; unit < count; unit++) {
        const Index second = shape_.branch(first + unit).read_by;
        const Index b = second >= 0 ? second : first + unit;
        const Branch& of = shape_.branch(b);
        add_normalised(z(unit, second >= 0, group), b, cell.mix[of.coefficient], node(of.target, group));
      }
    });
  }

  void add_normalised(const Vector* values, Index row, Real coefficient, Vector* out) const {
    for (int block = 0; block < shape_.blocks; block++) {
      Normal normal(shape_, row, block);
      normal.rstd *= all(coefficient);
      const Index begin = block * shape_.pixels;
      for (Index i = begin; i < begin + shape_.pixels; i++) out[i] += normal(values[i]);
    }
  }

  // Pools and identities of a state to all nodes that read it.
  void add_shared(Index source, Index group, const Vector* raw) const {
    const Cell& cell = shape_.cell;
    for (Index e = 0; e < cell.num_edges; e++) {
      const Edge& edge = shape_.edge(e);
      if (edge.source != source) continue;
      Vector* out = node(edge.node, group);
      if (edge.max_pool >= 0) add_normalised(pools(0, group), edge.max_pool_row, cell.mix[edge.max_pool], out);
      if (edge.avg_pool >= 0) add_normalised(pools(1, group), edge.avg_pool_row, cell.mix[edge.avg_pool], out);
      if (edge.skip >= 0)
        for (Index i = 0; i < shape_.plane(); i++) out[i] += all(cell.mix[edge.skip]) * raw[i];
    }
  }

  // From vectors to the node's place among all nodes, shuffled, with the channels that pass by added up.
  void finish_node(Index number) {
    const Cell& cell = shape_.cell;
    const Index pitch = cell.num_nodes * cell.channels, image = shape_.pixels * pitch;
    const Image out = cell.nodes + number * cell.channels;
    parallel(cell.threads, shape_.groups, [&](Index group, Index) {
      for (int block = 0; block < shape_.blocks; block++)
        for (Index i = 0; i < shape_.pixels; i++)
          shape_.store(node(number, group)[block * shape_.pixels + i], out + i * pitch, image, group, block, cell.k);
    });
    if (cell.k == 1) return;
    parallel(cell.threads, cell.images * cell.out_height, [&](Index line, Index thread) {
      const Index n = line / cell.out_height, y = line % cell.out_height, width = cell.out_width * cell.channels;
      Real* row = row_ + 3 * thread * width;
      std::fill(row, row + width, Real(0));
      for (Index e = 0; e < cell.num_edges; e++)
        if (shape_.edge(e).node == number) add_passing(shape_.state(shape_.edge(e).source), n, y, cell.edge_mix[e], row);
      for (Index x = 0; x < cell.out_width; x++) {
        const Image at = out + (n * image + (y * cell.out_width + x) * pitch);
        for (Index r = 1; r < cell.k; r++)
          for (Index c = 0; c < cell.mixed; c++) put(at, c * cell.k + r, row[x * cell.channels + r * cell.mixed + c]);
      }
    });
  }

  // One line of the channels that pass by; what it adds to the others nobody reads. `row` is followed by scratch.
  void add_passing(const State& state, Index n, Index y, Real coefficient, Real* row) const {
    const Cell& cell = shape_.cell;
    const Index width = cell.out_width * cell.channels;
    if (state.stride == 2) {
      pool_line(state, n, y, cell.out_width, cell.channels, row + width, row + 2 * width);
      add_scaled(row, coefficient, row + width, width);
      return;
    }
    const ConstImage in = state.base + (n * state.image() + y * state.width * state.pitch);
    for (Index x = 0; x < cell.out_width; x++)
      add_scaled(row + x * cell.channels, coefficient, in + x * state.pitch, cell.channels);
  }

  Shape shape_;
  Filters* filters_;
  Padded middle_{0, 0, 0};
  Index chunk_, scratch_size_;
  Vector *rectified_, *raw_, *z_, *pools_, *nodes_, *partial_, *scratch_;
  Real* row_;
};
