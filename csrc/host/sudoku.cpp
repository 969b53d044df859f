#include "sudoku.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "random.h"

namespace trm_fast::sudoku {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Geometry: boxes of `Rows` x `Cols` cells, so bands of `Rows` rows and stacks of `Cols` columns.

using Mask = std::uint16_t;  // a set of digits: bit d - 1 stands for digit d

constexpr bool single(Mask m) { return (m & (m - 1)) == 0; }

int size_of(Mask m) {
    int n = 0;
    for (; m; m &= static_cast<Mask>(m - 1)) ++n;
    return n;
}

int digit_of(Mask m) {
    int digit = 1;
    while (m >>= 1) ++digit;
    return digit;
}

template <int Rows, int Cols>
struct Geometry {
    static constexpr int kRows = Rows, kCols = Cols, kSize = Rows * Cols, kCells = kSize * kSize;
    static constexpr int kPeers = 2 * (kSize - 1) + (Rows - 1) * (Cols - 1);
    static constexpr Mask kAll = (1 << kSize) - 1;

    std::array<std::array<std::uint8_t, kSize>, 3 * kSize> units{};  // rows, columns, boxes
    std::array<std::array<std::uint8_t, kPeers>, kCells> peers{};

    static constexpr int row(int cell) { return cell / kSize; }
    static constexpr int col(int cell) { return cell % kSize; }
    static constexpr int box(int cell) { return row(cell) / Rows * Rows + col(cell) / Cols; }
    static constexpr bool sees(int a, int b) {
        return a != b && (row(a) == row(b) || col(a) == col(b) || box(a) == box(b));
    }

    constexpr Geometry() {
        std::array<int, 3 * kSize> filled{};
        for (int cell = 0; cell < kCells; ++cell) {
            for (int unit : {row(cell), kSize + col(cell), 2 * kSize + box(cell)})
                units[unit][filled[unit]++] = static_cast<std::uint8_t>(cell);
            int n = 0;
            for (int other = 0; other < kCells; ++other)
                if (sees(cell, other)) peers[cell][n++] = static_cast<std::uint8_t>(other);
        }
    }
};

template <class G>
inline constexpr G kGeometry{};

// ---------------------------------------------------------------------------------------------------------------
// Search.

// The digits still possible in each cell, and the cells known to hold one digit whose peers were not told yet.
// Naked and hidden singles only ever shrink the sets, so the state `settle` ends in, and whether it meets a
// contradiction, does not depend on the order of the steps: that makes search counts comparable between programs.
template <class G>
class Board {
   public:
    Board() { possible_.fill(G::kAll); }

    explicit Board(const std::uint8_t* question) : Board() {
        for (int cell = 0; cell < G::kCells; ++cell)
            if (question[cell]) place(cell, static_cast<Mask>(1 << (question[cell] - 1)));
    }

    Mask possible(int cell) const { return possible_[cell]; }

    void place(int cell, Mask digit) {
        possible_[cell] &= digit;  // empty where the digit was ruled out: settle sees that
        todo_[todo_size_++] = static_cast<std::uint8_t>(cell);
    }

    void exclude(int cell, Mask digit) {
        const Mask left = possible_[cell] & static_cast<Mask>(~digit);
        if (left != possible_[cell] && single(left)) place(cell, left);
        possible_[cell] = left;
    }

    // Takes naked and hidden singles until there are none; false on a contradiction.
    bool settle() {
        do {
            while (todo_size_ > 0) {
                const int cell = todo_[--todo_size_];
                const Mask digit = possible_[cell];
                if (!digit) return false;
                for (int peer : kGeometry<G>.peers[cell]) {
                    if (!(possible_[peer] & digit)) continue;
                    possible_[peer] ^= digit;
                    if (!possible_[peer]) return false;
                    if (single(possible_[peer])) todo_[todo_size_++] = static_cast<std::uint8_t>(peer);
                }
            }
            for (const auto& unit : kGeometry<G>.units)
                if (!take_hidden_singles(unit)) return false;
        } while (todo_size_ > 0);
        return true;
    }

    // The cell with the fewest digits left, the first of several; -1 where every cell is decided.
    int branching_cell() const {
        int best = -1, fewest = G::kSize + 1;
        for (int cell = 0; cell < G::kCells; ++cell) {
            if (single(possible_[cell])) continue;
            const int n = size_of(possible_[cell]);
            if (n == 2) return cell;
            if (n < fewest) fewest = n, best = cell;
        }
        return best;
    }

    void write(std::uint8_t* grid) const {
        for (int cell = 0; cell < G::kCells; ++cell) grid[cell] = static_cast<std::uint8_t>(digit_of(possible_[cell]));
    }

   private:
    template <class Unit>
    bool take_hidden_singles(const Unit& unit) {
        Mask once = 0, more = 0, decided = 0;
        for (int cell : unit) {
            const Mask m = possible_[cell];
            more |= once & m;
            once |= m;
            decided |= single(m) ? m : Mask(0);
        }
        if (once != G::kAll) return false;
        const Mask hidden = once & static_cast<Mask>(~(more | decided));
        if (!hidden) return true;
        for (int cell : unit) {
            const Mask digit = possible_[cell] & hidden;
            if (!digit) continue;
            if (!single(digit)) return false;
            place(cell, digit);
        }
        return true;
    }

    std::array<Mask, G::kCells> possible_;
    // A cell enters when it comes down to one digit, which happens once: the list cannot overflow.
    std::array<std::uint8_t, G::kCells> todo_;
    int todo_size_ = 0;
};

// Counts the solutions below a settled board up to `limit` and keeps the first; adds the values tried to `tried`.
template <class G>
int count_solutions(const Board<G>& board, int limit, std::int32_t& tried, Board<G>& first) {
    const int cell = board.branching_cell();
    if (cell < 0) {
        first = board;
        return 1;
    }
    int found = 0;
    for (Mask left = board.possible(cell); left && found < limit; left &= static_cast<Mask>(left - 1)) {
        ++tried;
        Board<G> next = board;
        next.place(cell, left & static_cast<Mask>(-left));
        if (!next.settle()) continue;
        Board<G> solution;
        const int below = count_solutions(next, limit - found, tried, solution);
        if (below && !found) first = solution;
        found += below;
    }
    return found;
}

template <class G>
int solve_one(const std::uint8_t* question, std::uint8_t* solution, std::int32_t& rating) {
    rating = 0;
    Board<G> board(question), first;
    const int found = board.settle() ? count_solutions(board, 2, rating, first) : 0;
    if (found) first.write(solution);
    else std::fill_n(solution, G::kCells, std::uint8_t(0));
    return found;
}

// ---------------------------------------------------------------------------------------------------------------
// Generator: a random complete grid, then digits taken out in random order as long as the solution stays unique.

template <class G>
bool fill(Board<G>& board, Rng& rng) {
    if (!board.settle()) return false;
    const int cell = board.branching_cell();
    if (cell < 0) return true;
    std::array<Mask, G::kSize> digits;
    int n = 0;
    for (Mask left = board.possible(cell); left; left &= static_cast<Mask>(left - 1))
        digits[n++] = left & static_cast<Mask>(-left);
    rng.shuffle(digits.data(), n);
    for (int i = 0; i < n; ++i) {
        Board<G> next = board;
        next.place(cell, digits[i]);
        if (fill(next, rng)) {
            board = next;
            return true;
        }
    }
    return false;
}

template <class G>
class Digger {
   public:
    Digger(std::uint8_t* question, const std::uint8_t* answer) : question_(question) {
        std::copy_n(answer, G::kCells, question);
        for (int cell = 0; cell < G::kCells; ++cell) flip(cell, bit(cell));
    }

    // Takes digits out until `givens` are left or every cell was tried; the number left.
    int dig(int givens, Rng& rng) {
        std::array<std::uint8_t, G::kCells> order;
        for (int cell = 0; cell < G::kCells; ++cell) order[cell] = static_cast<std::uint8_t>(cell);
        rng.shuffle(order.data(), G::kCells);
        int left = G::kCells;
        for (int i = 0; i < G::kCells && left > givens; ++i) left -= take_out(order[i]);
        return left;
    }

   private:
    Mask bit(int cell) const { return static_cast<Mask>(1 << (question_[cell] - 1)); }

    void flip(int cell, Mask digit) {
        rows_[G::row(cell)] ^= digit;
        cols_[G::col(cell)] ^= digit;
        boxes_[G::box(cell)] ^= digit;
    }

    Mask seen(int cell) const { return rows_[G::row(cell)] | cols_[G::col(cell)] | boxes_[G::box(cell)]; }

    bool take_out(int cell) {
        const Mask digit = bit(cell);
        const std::uint8_t given = std::exchange(question_[cell], std::uint8_t(0));
        flip(cell, digit);
        if (forced(cell, digit)) return true;
        Board<G> board(question_), unused;
        board.exclude(cell, digit);
        std::int32_t tried = 0;
        if (!board.settle() || !count_solutions(board, 1, tried, unused)) return true;
        question_[cell] = given;
        flip(cell, digit);
        return false;
    }

    // Whether the givens alone leave `digit` as a naked or hidden single: settles most early removals cheaply.
    bool forced(int cell, Mask digit) const {
        if ((seen(cell) | digit) == G::kAll) return true;
        for (int unit : {G::row(cell), G::kSize + G::col(cell), 2 * G::kSize + G::box(cell)}) {
            bool alone = true;
            for (int other : kGeometry<G>.units[unit])
                alone &= other == cell || question_[other] || (seen(other) & digit);
            if (alone) return true;
        }
        return false;
    }

    std::uint8_t* question_;
    std::array<Mask, G::kSize> rows_{}, cols_{}, boxes_{};
};

// After kPatience attempts at the number of givens drawn first, every attempt draws its own.
constexpr int kPatience = 100, kAttempts = 20000;

template <class G>
std::int32_t generate_one(const Limits& limits, Rng& rng, std::uint8_t* question, std::uint8_t* answer) {
    int givens = 0;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        if (attempt == 0 || attempt >= kPatience)
            givens = limits.min_givens + rng.below(limits.max_givens - limits.min_givens + 1);
        Board<G> grid;
        fill(grid, rng);
        grid.write(answer);
        if (Digger<G>(question, answer).dig(givens, rng) != givens) continue;
        std::int32_t rating;
        solve_one<G>(question, answer, rating);
        if (limits.min_rating <= rating && rating <= limits.max_rating) return rating;
    }
    throw std::runtime_error("no puzzle within the limits in " + std::to_string(kAttempts) + " attempts");
}

// ---------------------------------------------------------------------------------------------------------------
// Canonical form: the smallest image of the answer, read row by row, and among the symmetries that give it the
// smallest image of the question.
//
// Relabelling makes the first row 1, 2, 3... whatever the order of columns, and once the first two rows and the order
// of columns are chosen the rest follows by sorting. So the search is over (transposition, first row, second row,
// order of columns), and the second row decides nearly all of it: read column by column, `trace` lets each digit
// take the smallest label that the choices so far leave it.

template <class G>
class Canonizer {
   public:
    Canonizer(const std::uint8_t* question, const std::uint8_t* answer, std::uint8_t* form) {
        best_.fill(0xFF);
        for (bool transposed : {false, true}) {
            if (transposed && G::kRows != G::kCols) break;
            for (int r = 0; r < G::kSize; ++r)
                for (int c = 0; c < G::kSize; ++c)
                    grid_[r][c] = answer[transposed ? c * G::kSize + r : r * G::kSize + c];
            now_.transposed = transposed;
            for (int first = 0; first < G::kSize; ++first)
                for (int second = first / G::kRows * G::kRows; second < (first / G::kRows + 1) * G::kRows; ++second)
                    if (second != first) begin(first, second);
        }
        std::copy(best_.begin(), best_.end(), form + G::kCells);
        smallest_question(question, form);
    }

   private:
    struct Symmetry {
        bool transposed;
        std::array<std::int8_t, G::kSize> rows, cols;  // the row and column that come to each place
        std::array<std::uint8_t, G::kSize + 1> label;  // by digit; a blank stays 0
    };

    void begin(int first, int second) {
        now_.rows[0] = static_cast<std::int8_t>(first);
        now_.rows[1] = static_cast<std::int8_t>(second);
        std::array<int, G::kSize + 1> where;
        for (int c = 0; c < G::kSize; ++c) where[grid_[first][c]] = c;
        for (int c = 0; c < G::kSize; ++c) above_[c] = where[grid_[second][c]];
        now_.cols.fill(-1);
        place_.fill(-1);
        slot_.fill(-1);
        used_.fill(0);
        slots_ = 0;
        trace(0);
    }

    // Columns come to places from left to right within a stack, and stacks to slots from left to right.
    int put(int column) {
        const int stack = column / G::kCols;
        if (slot_[stack] < 0) slot_[stack] = slots_++;
        const int slot = slot_[stack];
        place_[column] = slot * G::kCols + used_[slot]++;
        now_.cols[place_[column]] = static_cast<std::int8_t>(column);
        return place_[column];
    }

    void take_back(int column) {
        const int stack = column / G::kCols, slot = slot_[stack];
        now_.cols[place_[column]] = -1;
        place_[column] = -1;
        if (--used_[slot] == 0) slot_[stack] = -1, --slots_;
    }

    // Decides what stands in the second row at `place`.
    void trace(int place) {
        if (place == G::kSize) return finish();
        if (now_.cols[place] >= 0) return read(place, now_.cols[place]);
        for (int column = 0; column < G::kSize; ++column) {
            const int slot = slot_[column / G::kCols];
            const bool fits = slot < 0 ? slots_ == place / G::kCols : slot == place / G::kCols;
            if (place_[column] >= 0 || !fits) continue;
            put(column);
            read(place, column);
            take_back(column);
        }
    }

    void read(int place, int column) {
        const int source = above_[column];
        const bool fresh = place_[source] < 0;
        const int label = (fresh ? put(source) : place_[source]) + 1;
        std::uint8_t& best = best_[G::kSize + place];
        if (label < best) {
            best = static_cast<std::uint8_t>(label);
            std::fill(best_.begin() + G::kSize + place + 1, best_.end(), std::uint8_t(0xFF));
        }
        if (label == best) trace(place + 1);
        if (fresh) take_back(source);
    }

    // Two rows and the order of columns are known: labels and the order of the other rows follow.
    void finish() {
        const auto& top = grid_[now_.rows[0]];
        for (int c = 0; c < G::kSize; ++c) now_.label[top[now_.cols[c]]] = static_cast<std::uint8_t>(c + 1);
        now_.label[0] = 0;
        sort_rows();
        bool smaller = false;
        for (int r = 0; r < G::kSize; ++r) {
            const auto& row = grid_[now_.rows[r]];
            for (int c = 0; c < G::kSize; ++c) {
                const std::uint8_t label = now_.label[row[now_.cols[c]]];
                std::uint8_t& best = best_[r * G::kSize + c];
                if (!smaller && label > best) return;
                smaller |= label < best;
                best = label;
            }
        }
        if (smaller) ties_.clear();
        ties_.push_back(now_);
    }

    void sort_rows() {
        const auto head = [this](int row) { return now_.label[grid_[row][now_.cols[0]]]; };
        const int first = now_.rows[0], second = now_.rows[1], top = first / G::kRows;
        constexpr int kBands = G::kSize / G::kRows;
        std::array<std::array<std::int8_t, G::kRows>, kBands> bands;
        for (int band = 0; band < kBands; ++band) {
            for (int r = 0; r < G::kRows; ++r) bands[band][r] = static_cast<std::int8_t>(band * G::kRows + r);
            std::sort(bands[band].begin(), bands[band].end(), [&](int a, int b) {
                const auto key = [&](int row) { return row == first ? -2 : row == second ? -1 : int(head(row)); };
                return key(a) < key(b);
            });
        }
        std::swap(bands[0], bands[top]);
        std::sort(bands.begin() + 1, bands.end(),
                  [&](const auto& a, const auto& b) { return head(a[0]) < head(b[0]); });
        for (int r = 0; r < G::kSize; ++r) now_.rows[r] = bands[r / G::kRows][r % G::kRows];
    }

    void smallest_question(const std::uint8_t* question, std::uint8_t* form) const {
        std::array<std::uint8_t, G::kCells> image;
        std::fill_n(form, G::kCells, std::uint8_t(0xFF));
        for (const Symmetry& s : ties_) {
            for (int r = 0; r < G::kSize; ++r)
                for (int c = 0; c < G::kSize; ++c) {
                    const int row = s.rows[r], col = s.cols[c];
                    const int cell = s.transposed ? col * G::kSize + row : row * G::kSize + col;
                    image[r * G::kSize + c] = s.label[question[cell]];
                }
            if (std::lexicographical_compare(image.begin(), image.end(), form, form + G::kCells))
                std::copy(image.begin(), image.end(), form);
        }
    }

    std::array<std::array<std::uint8_t, G::kSize>, G::kSize> grid_;
    std::array<std::uint8_t, G::kCells> best_;
    std::vector<Symmetry> ties_;
    Symmetry now_;
    std::array<int, G::kSize> above_;  // by column: where the first row has the digit that the second has there
    std::array<int, G::kSize> place_;  // by column, -1 while open; slot_ by stack
    std::array<int, G::kSize / G::kCols> slot_, used_;
    int slots_ = 0;
};

template <class G>
bool obeys_rules(const std::uint8_t* answer) {
    for (const auto& unit : kGeometry<G>.units) {
        Mask seen = 0;
        for (int cell : unit)
            if (answer[cell] >= 1 && answer[cell] <= G::kSize) seen |= static_cast<Mask>(1 << (answer[cell] - 1));
        if (seen != G::kAll) return false;
    }
    return true;
}

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

void canonical(int size, std::int64_t count, const std::uint8_t* questions, const std::uint8_t* answers,
               std::uint8_t* forms) {
    for_size(size, [&](const auto& g) {
        using G = std::decay_t<decltype(g)>;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::uint8_t* answer = answers + i * G::kCells;
            if (!obeys_rules<G>(answer))
                throw std::invalid_argument("answer " + std::to_string(i) + " breaks the rules");
            Canonizer<G>(questions + i * G::kCells, answer, forms + 2 * i * G::kCells);
        }
    });
}

}  // namespace trm_fast::sudoku
