// The gradient of a cell: state by state from the last to the first, a few branches at a time, which are computed again.
//
// With zhat = (z - mean) / sigma and a candidate's coefficient a, normalisation sends the gradient dy of its node to
// dz = (a / sigma) (dy - mean(dy) - zhat mean(dy zhat)) (Ioffe and Szegedy, 2015, arXiv:1502.03167, section 3), and the
// sum of dy zhat is the gradient of a. With statistics that were given the two means are zero.
#pragma once

#include "cell.hpp"
#include "pools.hpp"
#include "shared_gradient.hpp"

class Backward {
 public:
  Backward(const Cell& cell, Memory& memory)
      : shape_(cell), filters_(memory.take<Filters>(cell.num_branches)), shared_(shape_, memory) {
    Index inputs = 0, raw = shape_.plane(), border = 0, back = 0, middle = 0;
    for (Index s = 0; s < cell.num_sources; s++) {
      const State state = shape_.state(s);
      const Padded padded{state.height, state.width, widest(shape_, s, false)};
      inputs = std::max(inputs, shape_.blocks * padded.size());
      raw = std::max(raw, shape_.blocks * state.height * state.width);
      border = std::max(border, widest(shape_, s, true));
      middle = std::max<Index>(middle, shape_.range(s).middle - shape_.range(s).first);
    }
    for (Index b = 0; b < cell.num_branches; b++) {
      const Filters of = take_filters(shape_, memory, b, true);
      if (filters_) filters_[b] = of;
      back = std::max(back, border_back(shape_.filter(b)));
      weights_ = std::max(weights_, num_weights(b));
    }
    middle_ = {cell.out_height, cell.out_width, border};
    slots_ = std::min<Index>(32, shape_.groups);
    const Index bytes = 4 * shape_.groups * shape_.plane() * Index(sizeof(Vector));
    chunk_ = std::max<Index>(1, std::min<Index>(middle, cell.chunk_bytes / bytes));
    rectified_ = memory.take(shape_.groups * inputs);
    raw_ = memory.take(shape_.groups * raw);
    dstate_ = memory.take(shape_.groups * raw);
    maps_ = memory.take(4 * chunk_ * shape_.groups * shape_.plane());
    partial_ = memory.take(2 * chunk_ * shape_.groups * shape_.blocks);
    dweights_ = memory.take(cell.dpacked ? chunk_ * slots_ * weights_ : 0);
    sums_ = memory.take<Real>(4 * chunk_ * cell.mixed);
    const Padded widest_back{cell.out_height, cell.out_width, back};
    scratch_size_ = shape_.blocks * (middle_.size() + widest_back.size()) + 2 * shape_.plane();
    scratch_ = memory.take(cell.threads * scratch_size_);
  }

  void run() {
    const Cell& cell = shape_.cell;
    parallel(cell.threads, cell.num_branches, [&](Index b, Index) { fill_filters(shape_, b, filters_[b]); });
    for (Index number = cell.num_inputs + cell.num_nodes - 1; number >= 0; number--) {
      const bool is_node = number >= cell.num_inputs;
      if (is_node) shared_.begin_node(number - cell.num_inputs);
      if (number < cell.num_sources) collect(number, is_node || cell.dinputs);
      if (is_node) shared_.finish_node(number - cell.num_inputs);
    }
  }

 private:
  // What a chunk keeps of a branch: depthwise and raw output, of the branch that reads the state and of the other.
  enum Map { T, Z, DEEP_T, DEEP_Z };

  Vector* map(Index unit, Map which, Index group) const {
    return maps_ + ((4 * unit + which) * shape_.groups + group) * shape_.plane();
  }
  Vector* partial(Index row, Index group) const { return partial_ + (row * shape_.groups + group) * shape_.blocks; }
  Index num_weights(Index b) const {
    return shape_.blocks * (Index(shape_.filter(b).taps()) + Index(BLOCK) * shape_.blocks);
  }
  // Sums over all pixels of each channel, of chunk's unit: 0 of dy zhat, 1 and 2 of the gradient in the middle of a
  // separable convolution, alone and times zhat.
  Real* sums(Index unit, int which) const { return sums_ + (4 * unit + which) * shape_.cell.mixed; }

  void collect(Index source, bool wanted) {
    const Cell& cell = shape_.cell;
    const State state = shape_.state(source);
    const Padded padded{state.height, state.width, widest(shape_, source, false)};
    const Index padded_size = shape_.blocks * padded.size(), raw_size = shape_.blocks * state.height * state.width;
    parallel(cell.threads, shape_.groups, [&](Index group, Index) {
      fill_state(shape_, state, group, raw_ + group * raw_size, padded, rectified_ + group * padded_size);
      std::fill(dstate_ + group * raw_size, dstate_ + (group + 1) * raw_size, Vector{});
    });
    const Range& range = shape_.range(source);
    for (Index first = range.first; first < range.middle; first += chunk_) {
      const Index last = std::min<Index>(range.middle, first + chunk_);
      recompute(source, first, last, padded, padded_size);
      if (!wanted && !cell.dpacked) continue;
      deeper(first, last);
      outer_half(first, last, padded, padded_size, state, wanted);
    }
    shared_.of_state(source, state, raw_, dstate_, wanted);
  }

  // All branches again, with the sums that are at once the gradients of the coefficients.
  void recompute(Index source, Index first, Index last, const Padded& padded, Index padded_size) {
    const Cell& cell = shape_.cell;
    const Index count = last - first;
    parallel(cell.threads, shape_.groups * count, [&](Index i, Index thread) {
      const Index group = i / count, unit = i % count, b = first + unit, second = shape_.branch(b).read_by;
      stage(shape_, shape_.filter(b), filters_[b], rectified_ + group * padded_size, padded, map(unit, T, group), true,
            map(unit, Z, group));
      if (second >= 0) {
        Vector* middle = scratch_ + thread * scratch_size_;
        fill_middle(shape_, b, group, map(unit, Z, group), middle_, middle);
        stage(shape_, shape_.filter(second), filters_[second], middle, middle_, map(unit, DEEP_T, group), true,
              map(unit, DEEP_Z, group));
      }
      correlation(second >= 0 ? second : b, map(unit, second >= 0 ? DEEP_Z : Z, group), group, partial(unit, group));
    });
    const Range& range = shape_.range(source);
    for (Index unit = 0; unit < count; unit++) {
      const Index b = first + unit, second = shape_.branch(b).read_by, row = second >= 0 ? second : b;
      shape_.total(partial(unit, 0), shape_.blocks, sums(unit, 0));
      std::copy_n(sums(unit, 0), cell.mixed, cell.sums + (2 * (cell.sum_rows[source] + row - range.first) + 1) * cell.mixed);
    }
  }

  void correlation(Index row, const Vector* z, Index group, Vector* out) const {
    const Vector* dy = shared_.dnode(shape_.branch(row).target, group);
    for (int block = 0; block < shape_.blocks; block++) {
      const Normal normal(shape_, row, block);
      out[block] = sum_of(shape_, [&](Index i) {
        i += block * shape_.pixels;
        return dy[i] * normal(z[i]);
      });
    }
  }

  // The gradient of raw outputs z from that of the normalised ones; `mean` and `slope` are sums over all pixels.
  void normalise_back(Index row, Real coefficient, const Real* mean, const Real* slope, const Vector* dy,
                      const Vector* z, Vector* dz) const {
    const Cell& cell = shape_.cell;
    const Real per_pixel = cell.frozen ? 0 : 1 / Real(cell.images * shape_.pixels);
    for (int block = 0; block < shape_.blocks; block++) {
      const Normal normal(shape_, row, block);
      const Vector scale = normal.rstd * all(coefficient);
      const Vector level = shape_.repeated(mean, block) * all(per_pixel);
      const Vector tilt = shape_.repeated(slope, block) * all(per_pixel) * normal.rstd;
      const Index begin = block * shape_.pixels;
      for (Index i = begin; i < begin + shape_.pixels; i++)
        dz[i] = scale * (dy[i] - level - (z[i] - normal.mean) * tilt);
    }
  }

  // Second halves of separable convolutions: their weights' gradients, and that of what they read.
  void deeper(Index first, Index last) {
    const Cell& cell = shape_.cell;
    std::vector<Index> units;
    for (Index unit = 0; unit < last - first; unit++)
      if (shape_.branch(first + unit).read_by >= 0) units.push_back(unit);
    const Index number = Index(units.size());
    if (!number) return;
    parallel(cell.threads, slots_ * number, [&](Index i, Index thread) {
      const Index unit = units[i % number], b = shape_.branch(first + unit).read_by;
      each_group(i / number, [&](Index group, bool begins) {
        const Branch& of = shape_.branch(b);
        Vector *middle = scratch_ + thread * scratch_size_, *dz = middle + shape_.blocks * middle_.size();
        Vector *dt = dz + shape_.plane(), *wide = dt + shape_.plane();
        normalise_back(b, cell.mix[of.coefficient], shared_.node_sums(of.target), sums(unit, 0),
                       shared_.dnode(of.target, group), map(unit, DEEP_Z, group), dz);
        if (cell.dpacked) fill_middle(shape_, first + unit, group, map(unit, Z, group), middle_, middle);
        multiply_back(b, unit, i / number, begins, map(unit, DEEP_T, group), dz, middle, middle_, dt);
        const Padded around{cell.out_height, cell.out_width, border_back(shape_.filter(b))};
        const Vector live = shape_.live_lanes(group);
        for (int block = 0; block < shape_.blocks; block++) {
          Normal normal(shape_, first + unit, block);
          normal.rstd *= live;
          const Vector* z = map(unit, Z, group) + block * shape_.pixels;
          Vector* du = map(unit, DEEP_Z, group) + block * shape_.pixels;  // no longer needed: du takes its place
          fill_padded(wide, around, [&](Index y, Index x) { return dt[block * shape_.pixels + y * around.width + x]; });
          convolve_back(shape_.filter(b), filters_[b].depthwise + block * shape_.filter(b).taps(), wide, around,
                        around.height, around.width, [&](Index y, Index x, Vector v) {
                          const Index at = y * around.width + x;
                          du[at] = zero_unless(~(normal(z[at]) <= Vector{}), v);
                        });
          partial(2 * unit, group)[block] = sum_of(shape_, [&](Index j) { return du[j]; });
          partial(2 * unit + 1, group)[block] = sum_of(shape_, [&](Index j) { return du[j] * normal(z[j]); });
        }
      });
    });
    for (Index unit : units) {
      for (int which = 0; which < 2; which++)
        shape_.total(partial(2 * unit + which, 0), shape_.blocks, sums(unit, 1 + which));
      gather_weights(shape_.branch(first + unit).read_by, unit);
    }
  }

  // Branches that read the state: their weights' gradients, and that of the state, group by group.
  void outer_half(Index first, Index last, const Padded& padded, Index padded_size, const State& state, bool wanted) {
    const Cell& cell = shape_.cell;
    const Index raw = state.height * state.width;
    parallel(cell.threads, slots_, [&](Index slot, Index thread) {
      each_group(slot, [&](Index group, bool begins) {
        Vector *dz = scratch_ + thread * scratch_size_, *dt = dz + shape_.plane(), *wide = dt + shape_.plane();
        for (Index unit = 0; unit < last - first; unit++) {
          const Index b = first + unit, second = shape_.branch(b).read_by;
          const Branch& of = shape_.branch(b);
          if (second >= 0)
            normalise_back(b, 1, sums(unit, 1), sums(unit, 2), map(unit, DEEP_Z, group), map(unit, Z, group), dz);
          else
            normalise_back(b, cell.mix[of.coefficient], shared_.node_sums(of.target), sums(unit, 0),
                           shared_.dnode(of.target, group), map(unit, Z, group), dz);
          multiply_back(b, unit, slot, begins, map(unit, T, group), dz, rectified_ + group * padded_size, padded, dt);
          if (!wanted) continue;
          const Filter filter = shape_.filter(b);
          const Padded around{cell.out_height, cell.out_width, border_back(filter)};
          for (int block = 0; block < shape_.blocks; block++) {
            Vector* dx = dstate_ + (group * shape_.blocks + block) * raw;
            fill_padded(wide, around, [&](Index y, Index x) { return dt[block * shape_.pixels + y * around.width + x]; });
            convolve_back(filter, filters_[b].depthwise + block * filter.taps(), wide, around, state.height, state.width,
                          [&](Index y, Index x, Vector v) { dx[y * state.width + x] += v; });
          }
        }
      });
    });
    for (Index b = first; b < last; b++) gather_weights(b, b - first);
  }

  // Groups are shared out to a fixed number of slots, whatever the number of threads: sums are always the same.
  template <class Run>
  void each_group(Index slot, Run run) const {
    const Index begin = slot * shape_.groups / slots_, end = (slot + 1) * shape_.groups / slots_;
    for (Index group = begin; group < end; group++) run(group, group == begin);
  }

  // From dz to dt, the gradient of the depthwise output, and the gradients of both filters.
  void multiply_back(Index b, Index unit, Index slot, bool begins, const Vector* t, const Vector* dz, const Vector* in,
                     const Padded& padded, Vector* dt) const {
    const Index pixels = shape_.pixels;
    multiply(dt, pixels, dz, pixels, pixels, filters_[b].turned, shape_.blocks);
    if (!shape_.cell.dpacked) return;
    Vector* of_depthwise = dweights_ + (unit * slots_ + slot) * weights_;
    const Filter filter = shape_.filter(b);
    Vector* of_pointwise = of_depthwise + shape_.blocks * filter.taps();
    if (begins) std::fill(of_depthwise, of_depthwise + num_weights(b), Vector{});
    outer(of_pointwise, t, pixels, dz, pixels, pixels, shape_.blocks);
    const Padded flat{shape_.cell.out_height, shape_.cell.out_width, 0};
    for (int block = 0; block < shape_.blocks; block++)
      correlate(filter, of_depthwise + block * filter.taps(), in + block * padded.size(), padded, dt + block * pixels,
                flat);
  }

  // Adds up the slots' gradients of one branch's weights, which go to their places in the packed vector.
  void gather_weights(Index b, Index unit) const {
    const Cell& cell = shape_.cell;
    if (!cell.dpacked) return;
    const Branch& of = shape_.branch(b);
    const Index taps = shape_.filter(b).taps(), c = cell.mixed, blocks = shape_.blocks;
    auto put = [&](Index place, Real* out) {
      Vector sum = {};
      for (Index slot = 0; slot < slots_; slot++) sum += dweights_[(unit * slots_ + slot) * weights_ + place];
      const Index begin = place < blocks * taps ? place / taps * BLOCK : (place - blocks * taps) % blocks * BLOCK;
      for (Index channel = begin; channel < std::min(begin + BLOCK, c); channel++) {
        Real total = 0;
        for (int g = 0; g < LANES; g += BLOCK) total += lane(&sum, g + channel - begin);
        out[channel] = total;
      }
    };
    for (Index place = 0; place < blocks * taps; place++) put(place, cell.dpacked + of.depthwise + place % taps * c);
    for (Index i = 0; i < c * blocks; i++) put(blocks * taps + i, cell.dpacked + of.pointwise + i / blocks * c);
  }

  Shape shape_;
  Filters* filters_;
  SharedGradient shared_;
  Padded middle_{0, 0, 0};
  Index chunk_, slots_, scratch_size_, weights_ = 0;
  Vector *rectified_, *raw_, *dstate_, *maps_, *partial_, *dweights_, *scratch_;
  Real* sums_;
};
