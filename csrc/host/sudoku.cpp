#include "sudoku.h"

#include <stdexcept>
#include <string>
#include <type_traits>

#include "sudoku_generator.h"

namespace trm_fast::sudoku {
namespace {

template <class F>
void for_size(int size, F&& f) {
    switch (size) {
        case 4: return f(kGeometry<Geometry<2, 2>>);
        case 6: return f(kGeometry<Geometry<2, 3>>);
        case 9: return f(kGeometry<Geometry<3, 3>>);
        default: throw std::invalid_argument("size must be 4, 6 or 9, not " + std::to_string(size));
    }
}

}  // namespace

void generate(int size, std::int64_t first, std::int64_t count, const Limits& limits, std::uint64_t seed,
              std::uint8_t* questions, std::uint8_t* answers, std::int32_t* ratings) {
    for_size(size, [&](const auto& g) {
        using G = std::decay_t<decltype(g)>;
        for (std::int64_t i = 0; i < count; ++i) {
            Rng rng(seed, static_cast<std::uint64_t>(first + i));
            ratings[i] = generate_one<G>(limits, rng, questions + i * G::kCells, answers + i * G::kCells);
        }
    });
}

void solve(int size, std::int64_t count, const std::uint8_t* questions, std::uint8_t* solutions, std::uint8_t* counts,
           std::int32_t* ratings) {
    for_size(size, [&](const auto& g) {
        using G = std::decay_t<decltype(g)>;
        for (std::int64_t i = 0; i < count; ++i)
            counts[i] = static_cast<std::uint8_t>(
                solve_one<G>(questions + i * G::kCells, solutions + i * G::kCells, ratings[i]));
    });
}

}  // namespace trm_fast::sudoku
