#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>

#include "sudoku.h"

namespace py = pybind11;

namespace trm_fast::sudoku {
namespace {

using Grids = py::array_t<std::uint8_t, py::array::c_style>;

// Digits index tables in C++, so nothing above `size` may come through.
void check(const Grids& grids, int size, const char* name) {
    const std::string what = name;
    if (grids.ndim() != 2 || grids.shape(1) != static_cast<py::ssize_t>(size) * size)
        throw std::invalid_argument(what + " must have the shape (N, " + std::to_string(size * size) + ")");
    const auto too_large = [size](std::uint8_t digit) { return digit > size; };
    if (std::any_of(grids.data(), grids.data() + grids.size(), too_large))
        throw std::invalid_argument(what + " must hold 0 to " + std::to_string(size));
}

py::tuple py_generate(int size, std::int64_t count, int min_givens, int max_givens, std::uint64_t seed,
                      std::int64_t first, std::int32_t min_rating, std::int32_t max_rating) {
    const py::ssize_t cells = static_cast<py::ssize_t>(size) * size;
    if (count < 0 || min_givens < 0 || min_givens > max_givens || max_givens > cells)
        throw std::invalid_argument("wanted: count >= 0 and 0 <= min_givens <= max_givens <= size * size");
    Grids questions({count, cells}), answers({count, cells});
    py::array_t<std::int32_t> ratings(count);
    {
        auto *q = questions.mutable_data(), *a = answers.mutable_data();
        auto* r = ratings.mutable_data();
        py::gil_scoped_release release;
        generate(size, first, count, {min_givens, max_givens, min_rating, max_rating}, seed, q, a, r);
    }
    return py::make_tuple(questions, answers, ratings);
}

py::tuple py_solve(const Grids& questions, int size) {
    check(questions, size, "questions");
    const py::ssize_t count = questions.shape(0);
    Grids solutions({count, questions.shape(1)}), counts(count);
    py::array_t<std::int32_t> ratings(count);
    {
        const auto* q = questions.data();
        auto *s = solutions.mutable_data(), *n = counts.mutable_data();
        auto* r = ratings.mutable_data();
        py::gil_scoped_release release;
        solve(size, count, q, s, n, r);
    }
    return py::make_tuple(solutions, counts, ratings);
}

}  // namespace

void bind(py::module_& m) {
    using namespace py::literals;
    m.def("generate", &py_generate, "size"_a, "count"_a, "min_givens"_a, "max_givens"_a, "seed"_a, "first"_a = 0,
          "min_rating"_a = 0, "max_rating"_a = INT32_MAX);
    m.def("solve", &py_solve, "questions"_a, "size"_a);
}

}  // namespace trm_fast::sudoku
