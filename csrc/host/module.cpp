// The Python module trm_fast._host: puzzle generators and solvers. Each task has a submodule, bound in <task>.cpp.
#include <pybind11/pybind11.h>

namespace trm_fast::maze {
void bind(pybind11::module_& m);
}
namespace trm_fast::sudoku {
void bind(pybind11::module_& m);
}

PYBIND11_MODULE(_host, m) {
  m.doc() = "Puzzle generators and solvers on numpy arrays.";
  auto maze = m.def_submodule("maze", "See trm_fast.tasks.maze.reference, which has the same functions.");
  trm_fast::maze::bind(maze);
  auto sudoku = m.def_submodule("sudoku", "See trm_fast.tasks.sudoku.reference, which has the same functions.");
  trm_fast::sudoku::bind(sudoku);
}
