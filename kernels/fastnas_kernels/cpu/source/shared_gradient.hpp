// Gradients that do not go through a convolution: of nodes, pools, identities and channels that pass by.
#pragma once

#include "cell.hpp"
#include "pools.hpp"

class SharedGradient {
 public:
  SharedGradient(const Shape& shape, Memory& memory) : shape_(shape) {
    const Cell& cell = shape.cell;
    dnodes_ = memory.take(cell.num_nodes * shape.groups * shape.plane());
    partial_ = memory.take(3 * cell.num_edges * shape.groups * shape.blocks);
    node_sums_ = memory.take<Real>(cell.num_nodes * cell.mixed);
    const Index nodes = cell.num_nodes * cell.images * shape.pixels * cell.channels;
    whole_ = memory.take_image(nodes);
    passing_ = memory.take<Real>(cell.k > 1 ? nodes : 0);
    lines_ = memory.take<Real>(cell.k > 1 ? 4 * cell.threads * cell.out_width * cell.channels : 0);
    const Index lines = cell.images * std::max(cell.height, cell.out_height);
    passed_ = memory.take<Real>(cell.k > 1 ? cell.num_edges * lines : 0);
  }

  // The gradient of a node's mixed channels, of one group.
  const Vector* dnode(Index node, Index group) const {
    return dnodes_ + (node * shape_.groups + group) * shape_.plane();
  }
  // Its sum over all pixels for each channel.
  const Real* node_sums(Index node) const { return node_sums_ + node * shape_.cell.mixed; }

  // Takes over the gradient that comes from outside.
  void begin_node(Index node) {
    const Cell& cell = shape_.cell;
    parallel(cell.threads, cell.images * cell.out_height, [&](Index line, Index) {
      for (Index i = line * cell.out_width; i < (line + 1) * cell.out_width; i++)
        for (Index c = 0; c < cell.channels; c++)
          put(whole(node), i * cell.channels + c, cell.dnodes[(i * cell.num_nodes + node) * cell.channels + c]);
    });
  }

  // The gradient is complete: turns its mixed channels into vectors.
  void finish_node(Index node) {
    const Cell& cell = shape_.cell;
    const Index image = shape_.pixels * cell.channels;
    parallel(cell.threads, shape_.groups, [&](Index group, Index) {
      Vector* out = dnodes_ + (node * shape_.groups + group) * shape_.plane();
      for (int block = 0; block < shape_.blocks; block++) {
        Vector* plane = out + block * shape_.pixels;
        for (Index i = 0; i < shape_.pixels; i++)
          plane[i] = shape_.load(whole(node) + i * cell.channels, image, group, block, cell.k);
        partial_[group * shape_.blocks + block] = sum_of(shape_, [&](Index i) { return plane[i]; });
      }
    });
    shape_.total(partial_, shape_.blocks, node_sums_ + node * cell.mixed);
    if (cell.k == 1) return;
    parallel(cell.threads, cell.images * cell.out_height, [&](Index line, Index) {
      for (Index i = line * cell.out_width; i < (line + 1) * cell.out_width; i++) {
        const ConstImage from = whole(node) + i * cell.channels;
        Real* to = passing(node) + i * cell.channels;
        std::fill_n(to, cell.mixed, Real(0));
        for (Index r = 1; r < cell.k; r++)
          for (Index c = 0; c < cell.mixed; c++) to[r * cell.mixed + c] = from[c * cell.k + r];
      }
    });
  }

  // The sums of a state's pools and identities, and the state's gradient: `dstate` holds what the convolutions sent
  // back to the rectified state.
  void of_state(Index source, const State& state, const Vector* raw, Vector* dstate, bool wanted) {
    const Cell& cell = shape_.cell;
    const Index size = shape_.blocks * state.height * state.width;
    leaving_.clear();
    for (Index e = 0; e < cell.num_edges; e++)
      if (shape_.edge(e).source == source) leaving_.push_back(e);
    parallel(cell.threads, shape_.groups, [&](Index group, Index) { correlate_shared(group, state, raw + group * size); });
    const Range& range = shape_.range(source);
    for (Index rank = 0; rank < Index(leaving_.size()); rank++)
      for (int which = 0; which < 3; which++)
        shape_.total(partial(rank, which, 0), shape_.blocks, sums(source, range, rank, which));
    if (wanted)
      parallel(cell.threads, shape_.groups, [&](Index group, Index) {
        add_shared(source, group, state, raw + group * size, dstate + group * size);
        write(source, group, state, dstate + group * size);
      });
    if (cell.k > 1 && (wanted || cell.passed)) pass_by(source, state, wanted);
  }

 private:
  // The gradient of a node as images, shuffled as they are.
  Image whole(Index node) const {
    return whole_ + node * shape_.cell.images * shape_.pixels * shape_.cell.channels;
  }
  // The same in the order before the shuffle, zero in the mixed channels.
  Real* passing(Index node) const {
    return passing_ + node * shape_.cell.images * shape_.pixels * shape_.cell.channels;
  }
  Vector* partial(Index rank, int which, Index group) const {
    return partial_ + ((3 * rank + which) * shape_.groups + group) * shape_.blocks;
  }
  // Where the sums of an edge lie: of dy times normalised max-pool, times normalised avg-pool, times the state.
  Real* sums(Index source, const Range& range, Index rank, int which) const {
    const Index row = shape_.cell.sum_rows[source] + range.last - range.first + 2 * rank;
    return shape_.cell.sums + (2 * row + 1 + which) * shape_.cell.mixed;
  }

  // A pool of an edge: the gradient of its node, and how it is normalised.
  struct Term {
    Index rank;
    int kind;  // 0 is max, 1 is avg
    Real coefficient;
    const Vector* dy;
    Normal normal;
  };

  std::vector<Term> terms(Index group, int block) const {
    std::vector<Term> found;
    for (Index rank = 0; rank < Index(leaving_.size()); rank++) {
      const Edge& edge = shape_.edge(leaving_[rank]);
      const Vector* dy = dnode(edge.node, group) + block * shape_.pixels;
      const int32_t coefficients[2] = {edge.max_pool, edge.avg_pool}, rows[2] = {edge.max_pool_row, edge.avg_pool_row};
      for (int kind = 0; kind < 2; kind++)
        if (coefficients[kind] >= 0)
          found.push_back({rank, kind, shape_.cell.mix[coefficients[kind]], dy, {shape_, rows[kind], block}});
    }
    return found;
  }

  void correlate_shared(Index group, const State& state, const Vector* raw) const {
    for (Index rank = 0; rank < Index(leaving_.size()); rank++)
      for (int which = 0; which < 3; which++) std::fill_n(partial(rank, which, group), shape_.blocks, Vector{});
    for (int block = 0; block < shape_.blocks; block++) {
      const Vector* in = raw + block * state.height * state.width;
      const std::vector<Term> pools = terms(group, block);
      if (!pools.empty())
        pool(in, state, shape_.cell.out_height, shape_.cell.out_width,
             [&](Index y, Index x, Vector highest, Mask, Vector average, int) {
               const Index at = y * shape_.cell.out_width + x;
               for (const Term& term : pools)
                 partial(term.rank, term.kind, group)[block] += term.dy[at] * term.normal(term.kind ? average : highest);
             });
      for (Index rank = 0; rank < Index(leaving_.size()); rank++) {
        const Edge& edge = shape_.edge(leaving_[rank]);
        const Vector* dy = dnode(edge.node, group) + block * shape_.pixels;
        if (edge.skip >= 0) partial(rank, 2, group)[block] = sum_of(shape_, [&](Index i) { return dy[i] * in[i]; });
      }
    }
  }

  void add_shared(Index source, Index group, const State& state, const Vector* raw, Vector* dstate) const {
    const Cell& cell = shape_.cell;
    const Real per_pixel = cell.frozen ? 0 : 1 / Real(cell.images * shape_.pixels);
    const Index plane = state.height * state.width;
    for (int block = 0; block < shape_.blocks; block++) {
      const Vector* in = raw + block * plane;
      Vector* dx = dstate + block * plane;
      for (Index i = 0; i < plane; i++) dx[i] = zero_unless(~(in[i] <= Vector{}), dx[i]);
      for (Index e : leaving_) {
        const Edge& edge = shape_.edge(e);
        if (edge.skip < 0) continue;
        const Vector* dy = dnode(edge.node, group) + block * shape_.pixels;
        for (Index i = 0; i < plane; i++) dx[i] += all(cell.mix[edge.skip]) * dy[i];
      }
      const std::vector<Term> pools = terms(group, block);
      if (pools.empty()) continue;
      std::vector<Vector> level, tilt;
      for (const Term& term : pools) {
        const Index node = shape_.edge(leaving_[term.rank]).node;
        level.push_back(shape_.repeated(node_sums(node), block) * all(per_pixel));
        tilt.push_back(shape_.repeated(sums(source, shape_.range(source), term.rank, term.kind), block) * all(per_pixel));
      }
      pool_back(in, state, cell.out_height, cell.out_width, dx,
                [&](Index y, Index x, Vector highest, Vector average, Vector* dmax, Vector* daverage) {
                  *dmax = *daverage = Vector{};
                  for (Index i = 0; i < Index(pools.size()); i++) {
                    const Term& term = pools[i];
                    const Vector zhat = term.normal(term.kind ? average : highest);
                    const Vector dy = term.dy[y * cell.out_width + x] - level[i] - zhat * tilt[i];
                    *(term.kind ? daverage : dmax) += term.normal.rstd * all(term.coefficient) * dy;
                  }
                });
    }
  }

  // The gradient of the mixed channels goes to the input's gradient, or is added to that of a node.
  void write(Index source, Index group, const State& state, const Vector* dstate) const {
    const Cell& cell = shape_.cell;
    const bool is_node = source >= cell.num_inputs;
    const Index plane = state.height * state.width, image = plane * cell.channels;
    const Image out = is_node ? whole(source - cell.num_inputs) : cell.dinputs + source * cell.images * image;
    for (int block = 0; block < shape_.blocks; block++)
      for (Index i = 0; i < plane; i++) {
        Vector v = dstate[block * plane + i];
        if (is_node) v += shape_.load(out + i * cell.channels, image, group, block);
        shape_.store(v, out + i * cell.channels, image, group, block);
      }
  }

  // Gradients of the channels that pass by and of the weights of their edges, one line of the output at a time.
  void pass_by(Index source, const State& state, bool wanted) {
    const Cell& cell = shape_.cell;
    const bool is_node = source >= cell.num_inputs;
    const Index lines = cell.images * cell.out_height, plane = state.height * state.width;
    Image out = {};
    if (wanted) out = is_node ? whole(source - cell.num_inputs) : cell.dinputs + source * cell.images * plane * cell.channels;
    parallel(cell.threads, lines, [&](Index line, Index thread) {
      const Index n = line / cell.out_height, y = line % cell.out_height;
      const Index width = cell.out_width * cell.channels;
      Real *collected = lines_ + 4 * thread * width, *values = collected + width, *position = values + width;
      Real* dots = position + width;
      if (state.stride == 2) pool_line(state, n, y, cell.out_width, cell.channels, values, position);
      std::fill_n(collected, width, Real(0));
      auto correlate_line = [&](auto x, Index pitch) {
        for (Index rank = 0; rank < Index(leaving_.size()); rank++) {
          const Index e = leaving_[rank];
          const Real* dy = passing(shape_.edge(e).node) + line * width;
          std::fill_n(dots, cell.channels, Real(0));
          for (Index i = 0; i < cell.out_width; i++)
            for (Index q = 0; q < cell.channels; q++) dots[q] += dy[i * cell.channels + q] * x[i * pitch + q];
          add_scaled(collected, cell.edge_mix[e], dy, width);
          passed_[rank * lines + line] = std::accumulate(dots + cell.mixed, dots + cell.channels, Real(0));
        }
      };
      if (state.stride == 2)
        correlate_line(values, cell.channels);
      else
        correlate_line(state.base + (n * state.image() + y * state.width * state.pitch), state.pitch);
      if (out) pass_back(state, n, y, collected, position, is_node, out);
    });
    if (!cell.passed) return;
    for (Index rank = 0; rank < Index(leaving_.size()); rank++) {
      Real sum = 0;
      for (Index line = 0; line < lines; line++) sum += passed_[rank * lines + line];
      cell.passed[leaving_[rank]] = sum;
    }
  }

  // One line of the gradient of what passed by, to the pixels where it came from.
  void pass_back(const State& state, Index n, Index y, const Real* dy, const Real* position, bool add, Image out) const {
    const Cell& cell = shape_.cell;
    for (Index x = 0; x < cell.out_width; x++, dy += cell.channels, position += cell.channels)
      for (int i = 0; i < state.stride * state.stride; i++) {
        const Index row = y * state.stride + i / 2, column = x * state.stride + i % 2;
        if (row >= state.height || column >= state.width) continue;
        const Image to = out + ((n * state.height + row) * state.width + column) * cell.channels;
        for (Index q = cell.mixed; q < cell.channels; q++) {
          const Real v = state.stride == 1 || position[q] == Real(i) ? dy[q] : Real(0);
          put(to, q, add ? to[q] + v : v);
        }
      }
  }

  const Shape& shape_;
  std::vector<Index> leaving_;
  Vector *dnodes_, *partial_;
  Image whole_;
  Real *node_sums_, *passing_, *lines_, *passed_;
};
