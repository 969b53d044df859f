// Sudoku puzzles on plain arrays: a generator and a solver, for 4x4, 6x6 and 9x9.
//
// A grid is size * size bytes, row by row, 0 for a blank. Every function is a pure function of its arguments, and
// trm_fast/tasks/sudoku/reference.py computes the same bytes in Python.
#pragma once

#include <cstdint>

namespace trm_fast::sudoku {

struct Limits {
    int min_givens, max_givens;
    std::int32_t min_rating, max_rating;
};

// Writes puzzles first .. first + count - 1 of the sequence that `seed` names; each depends on (seed, index) alone.
// Throws std::runtime_error where a bounded number of attempts finds none within the limits.
void generate(int size, std::int64_t first, std::int64_t count, const Limits& limits, std::uint64_t seed,
              std::uint8_t* questions, std::uint8_t* answers, std::int32_t* ratings);

// counts: 0, 1 or 2 (several). ratings: values tried at branching cells; where there are several solutions, until
// the second was found. A solution is all zero where counts is 0.
void solve(int size, std::int64_t count, const std::uint8_t* questions, std::uint8_t* solutions, std::uint8_t* counts,
           std::int32_t* ratings);

}  // namespace trm_fast::sudoku
