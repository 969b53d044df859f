// Canonical form of a sudoku: the smallest image of the answer, read row by row, and among the symmetries that give it
// the smallest image of the question.
//
// Relabelling makes the first row 1, 2, 3... whatever the order of columns, and once the first two rows and the order
// of columns are chosen the rest follows by sorting. So the search is over (transposition, first row, second row,
// order of columns), and the second row decides nearly all of it: read column by column, `trace` lets each digit
// take the smallest label that the choices so far leave it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "sudoku_board.h"

namespace trm_fast::sudoku {

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

}  // namespace trm_fast::sudoku
