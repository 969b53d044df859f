// trm_fast._host.maze: generates mazes and finds shortest paths, on numpy arrays. Results depend only on the arguments.
// trm_fast/tasks/maze/reference.py documents the functions and computes the same bytes in Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "maze_search.h"

namespace py = pybind11;

namespace trm_fast::maze {
namespace {

using Mazes = py::array_t<std::uint8_t, py::array::c_style>;
using Distances = py::array_t<std::int32_t>;

Shape checked_shape(int height, int width) {
  if (std::min(height, width) < 1 || std::max(height, width) > kMaxSide)
    throw std::invalid_argument("height and width must be 1 to " + std::to_string(kMaxSide));
  return {height, width};
}

// Throws std::invalid_argument unless each maze has the right size, one start and one goal.
void check(const Mazes& mazes, Shape shape) {
  if (mazes.ndim() != 2 || mazes.shape(1) != shape.cells())
    throw std::invalid_argument("mazes must have the shape (N, " + std::to_string(shape.cells()) + ")");
  for (py::ssize_t i = 0; i < mazes.shape(0); ++i) {
    const auto *from = mazes.data(i, 0), *to = from + shape.cells();
    if (std::count(from, to, kStart) != 1 || std::count(from, to, kGoal) != 1)
      throw std::invalid_argument("maze " + std::to_string(i) + " must have one start and one goal");
  }
}

// Returns mazes [first, first + count) of the sequence that `seed` selects. A maze depends only on the seed and its
// index. Throws std::runtime_error if `attempts` draws of one maze are rejected, and std::invalid_argument.
py::tuple generate(int height, int width, std::int64_t count, int min_density, int max_density, int min_distance,
                   std::uint64_t seed, std::int64_t first, std::int64_t attempts) {
  const Shape shape = checked_shape(height, width);
  if (count < 0 || min_density < 0 || min_density > max_density || max_density >= kDensityUnit || min_distance < 1)
    throw std::invalid_argument("expected count >= 0, 0 <= min_density <= max_density < 65536, min_distance >= 1");
  const py::ssize_t cells = shape.cells();
  Mazes questions({count, cells}), answers({count, cells});
  Distances distances(count);
  auto *q = questions.mutable_data(), *a = answers.mutable_data();
  auto* d = distances.mutable_data();
  const auto run = [&](auto generator) {
    py::gil_scoped_release release;
    for (std::int64_t i = 0; i < count; ++i) {
      Rng rng(seed, static_cast<std::uint64_t>(first + i));
      d[i] = generator.generate(rng, attempts, q + i * cells);
      mark_path(shape, q + i * cells, a + i * cells);
    }
  };
  const Limits limits{min_density, max_density, min_distance};
  if (width <= 32)
    run(Generator<std::uint32_t>(shape, limits));
  else
    run(Generator<std::uint64_t>(shape, limits));
  return py::make_tuple(questions, answers, distances);
}

// Returns the mazes with the paths of the published search, and the steps from start to goal, -1 if there is no path.
// Throws std::invalid_argument.
py::tuple solve(const Mazes& mazes, int height, int width) {
  const Shape shape = checked_shape(height, width);
  check(mazes, shape);
  const py::ssize_t count = mazes.shape(0), cells = mazes.shape(1);
  Mazes answers({count, cells});
  Distances distances(count);
  const auto* m = mazes.data();
  auto* a = answers.mutable_data();
  auto* d = distances.mutable_data();
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < count; ++i) d[i] = mark_path(shape, m + i * cells, a + i * cells);
  }
  return py::make_tuple(answers, distances);
}

}  // namespace

void bind(py::module_& m) {
  using namespace py::literals;
  m.def("generate", &generate, "height"_a, "width"_a, "count"_a, "min_density"_a, "max_density"_a, "min_distance"_a,
        "seed"_a, "first"_a = 0, "attempts"_a);
  m.def("solve", &solve, "mazes"_a, "height"_a, "width"_a);
}

}  // namespace trm_fast::maze
