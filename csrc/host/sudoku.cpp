// trm_fast._host.sudoku: generates and solves 4x4, 6x6 and 9x9 sudokus, on numpy arrays.
//
// A grid is size * size bytes, row by row, with 0 for a blank. Results depend only on the arguments.
// trm_fast/tasks/sudoku/reference.py documents the functions and computes the same bytes in Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "sudoku_generator.h"

namespace py = pybind11;

namespace trm_fast::sudoku {
namespace {

using Grids = py::array_t<std::uint8_t, py::array::c_style>;
using Ratings = py::array_t<std::int32_t>;

// Calls f(geometry, i) for i = 0 .. count - 1 without the GIL. Throws std::invalid_argument if there is no such size.
template <class F>
void for_each(int size, py::ssize_t count, F&& f) {
  const auto loop = [&](const auto& geometry) {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < count; ++i) f(geometry, i);
  };
  switch (size) {
    case 4: return loop(kGeometry<Geometry<2, 2>>);
    case 6: return loop(kGeometry<Geometry<2, 3>>);
    case 9: return loop(kGeometry<Geometry<3, 3>>);
    default: throw std::invalid_argument("size must be 4, 6 or 9, not " + std::to_string(size));
  }
}

// Returns puzzles [first, first + count) of the sequence that `seed` selects. A puzzle depends only on the seed and its
// index. Throws std::runtime_error if kAttempts attempts find no puzzle within the limits, and std::invalid_argument.
py::tuple generate(int size, std::int64_t count, int min_givens, int max_givens, std::uint64_t seed, std::int64_t first,
                   std::int32_t min_rating, std::int32_t max_rating) {
  const py::ssize_t cells = static_cast<py::ssize_t>(size) * size;
  if (count < 0 || min_givens < 0 || min_givens > max_givens || max_givens > cells)
    throw std::invalid_argument("expected count >= 0 and 0 <= min_givens <= max_givens <= size * size");
  const Limits limits{min_givens, max_givens, min_rating, max_rating};
  Grids questions({count, cells}), answers({count, cells});
  Ratings ratings(count);
  auto *q = questions.mutable_data(), *a = answers.mutable_data();
  auto* r = ratings.mutable_data();
  for_each(size, count, [&](const auto& geometry, py::ssize_t i) {
    using G = std::decay_t<decltype(geometry)>;
    Rng rng(seed, static_cast<std::uint64_t>(first + i));
    r[i] = generate_one<G>(limits, rng, q + i * cells, a + i * cells);
  });
  return py::make_tuple(questions, answers, ratings);
}

void check_grids(const char* name, const Grids& grids, int size, std::uint8_t smallest) {
  if (grids.ndim() != 2 || grids.shape(1) != static_cast<py::ssize_t>(size) * size)
    throw std::invalid_argument(std::string(name) + " must have the shape (N, " + std::to_string(size * size) + ")");
  // Digits are shift counts, so none may exceed `size`.
  if (std::any_of(grids.data(), grids.data() + grids.size(),
                  [&](std::uint8_t digit) { return digit < smallest || digit > size; }))
    throw std::invalid_argument(std::string(name) + " must hold " + std::to_string(smallest) + " to " +
                                std::to_string(size));
}

// Returns a puzzle for each solved grid: the hardest of `tries` random ones. Puzzle i depends only on its grid, the
// seed and i. Throws std::invalid_argument.
Grids redraw(const Grids& answers, int size, int min_givens, std::int64_t tries, std::uint64_t seed) {
  check_grids("answers", answers, size, 1);
  if (tries < 1) throw std::invalid_argument("expected tries >= 1");
  const py::ssize_t count = answers.shape(0), cells = answers.shape(1);
  Grids questions({count, cells});
  const auto* a = answers.data();
  auto* q = questions.mutable_data();
  for_each(size, count, [&](const auto& geometry, py::ssize_t i) {
    using G = std::decay_t<decltype(geometry)>;
    Rng rng(seed, static_cast<std::uint64_t>(i));
    redraw_one<G>(a + i * cells, min_givens, tries, rng, q + i * cells);
  });
  return questions;
}

// Returns a solution of each puzzle (all zeros if it has none), the number of solutions (2 means at least 2) and the
// rating: the number of values tried at branching cells. The search ends at the second solution. Throws
// std::invalid_argument.
py::tuple solve(const Grids& questions, int size) {
  check_grids("questions", questions, size, 0);
  const py::ssize_t count = questions.shape(0), cells = questions.shape(1);
  const auto* q = questions.data();
  Grids solutions({count, cells}), counts(count);
  Ratings ratings(count);
  auto *s = solutions.mutable_data(), *n = counts.mutable_data();
  auto* r = ratings.mutable_data();
  for_each(size, count, [&](const auto& geometry, py::ssize_t i) {
    using G = std::decay_t<decltype(geometry)>;
    n[i] = static_cast<std::uint8_t>(solve_one<G>(q + i * cells, s + i * cells, r[i]));
  });
  return py::make_tuple(solutions, counts, ratings);
}

}  // namespace

void bind(py::module_& m) {
  using namespace py::literals;
  m.def("generate", &generate, "size"_a, "count"_a, "min_givens"_a, "max_givens"_a, "seed"_a, "first"_a = 0,
        "min_rating"_a = 0, "max_rating"_a = INT32_MAX);
  m.def("redraw", &redraw, "answers"_a, "size"_a, "min_givens"_a, "tries"_a, "seed"_a);
  m.def("solve", &solve, "questions"_a, "size"_a);
}

}  // namespace trm_fast::sudoku
