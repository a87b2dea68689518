// The two functions that Python calls. Each tells how many bytes it needs if it is given none.
#include "backward.hpp"
#include "forward.hpp"

namespace {

template <class Direction>
Index run(const Cell& cell, char* begin) {
  Memory memory(begin);
  Direction direction(cell, memory);
  if (begin) direction.run();
  return memory.used();
}

}  // namespace

extern "C" Index cell_forward(const Cell* cell, char* memory) { return run<Forward>(*cell, memory); }

extern "C" Index cell_backward(const Cell* cell, char* memory) { return run<Backward>(*cell, memory); }
