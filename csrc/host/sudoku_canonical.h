// Canonical form of a sudoku: the smallest image of the answer, read row by row, and among the symmetries that give it
// the smallest image of the question.
//
// The symmetries come as tables from trm_fast/tasks/sudoku/symmetry.py: a turn, an order of the rows, one of the
// columns, and any relabelling of the digits. Relabelling makes the first row 1, 2, 3... whatever the order of columns
// is, and the second row then depends on one permutation alone: of each column, in which one the first row has the
// digit that the second has there. So the best orders of columns are looked up by it, and once the first two rows and
// the order of columns are known, the other rows follow by sorting.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

namespace trm_fast::sudoku {

constexpr int kMaxSize = 9;
using Line = std::array<std::uint8_t, kMaxSize>;
using Cells = std::array<std::uint8_t, kMaxSize * kMaxSize>;

// `turns`, which cell comes to each place, and `rows` and `columns`, which line does. The orders of lines are groups,
// and so is everything together.
struct Symmetries {
    int size;
    std::vector<Cells> turns;
    std::vector<Line> rows, columns;
};

class Canonizer {
   public:
    explicit Canonizer(Symmetries symmetries)
        : size_(symmetries.size), turns_(std::move(symmetries.turns)), columns_(std::move(symmetries.columns)) {
        for (const Line& order : symmetries.rows) rows_[{order[0], order[1]}].push_back(order);
    }

    int size() const { return size_; }

    // `form`: the question's image and then the answer's. The answer must obey the rules.
    void write(const std::uint8_t* question, const std::uint8_t* answer, std::uint8_t* form) {
        const int cells = size_ * size_;
        best_.fill(0xFF);
        ties_.clear();
        for (const Start& start : smallest_second_rows(answer))
            for (const Line& columns : start.second->columns) place_rows(start, columns);
        std::copy_n(best_.begin(), cells, form + cells);
        std::fill_n(form, cells, std::uint8_t(0xFF));
        for (const Tie& tie : ties_) {
            const Cells moved = turned_back(question, *tie.turn);
            Cells image;
            for (int r = 0; r < size_; ++r)
                for (int c = 0; c < size_; ++c)
                    image[r * size_ + c] = tie.label[moved[(*tie.rows)[r] * size_ + tie.columns[c]]];
            if (std::lexicographical_compare(image.begin(), image.begin() + cells, form, form + cells))
                std::copy_n(image.begin(), cells, form);
        }
    }

   private:
    using Key = std::uint64_t;  // a line, four bits a place, the first highest: ordered as lines are

    struct SecondRow {
        Key least;
        std::vector<Line> columns;  // the orders that give it
    };

    struct Start {
        const Cells* turn;
        Cells grid;
        const std::vector<Line>* rows;  // the orders with the first two rows
        const SecondRow* second;
    };

    struct Tie {
        const Cells* turn;
        const Line* rows;
        Line columns;
        std::array<std::uint8_t, kMaxSize + 1> label;  // by digit; a blank stays 0
    };

    // In a group, the inverse of a turn before some orders gives the same images as the turn after some.
    Cells turned_back(const std::uint8_t* grid, const Cells& turn) const {
        Cells moved;
        for (int cell = 0; cell < size_ * size_; ++cell) moved[turn[cell]] = grid[cell];
        return moved;
    }

    Key key_of(const Line& line) const {
        Key key = 0;
        for (int i = 0; i < size_; ++i) key = key << 4 | line[i];
        return key;
    }

    std::vector<Start> smallest_second_rows(const std::uint8_t* answer) {
        std::vector<Start> starts;
        for (const Cells& turn : turns_) {
            const Cells grid = turned_back(answer, turn);
            for (const auto& [two, orders] : rows_) {
                std::array<std::uint8_t, kMaxSize + 1> where;
                for (int c = 0; c < size_; ++c) where[grid[two.first * size_ + c]] = static_cast<std::uint8_t>(c);
                Line above;
                for (int c = 0; c < size_; ++c) above[c] = where[grid[two.second * size_ + c]];
                const SecondRow& second = second_row(above);
                if (!starts.empty() && second.least > starts[0].second->least) continue;
                if (!starts.empty() && second.least < starts[0].second->least) starts.clear();
                starts.push_back({&turn, grid, &orders, &second});
            }
        }
        return starts;
    }

    // The smallest second row below 1, 2, 3... over the orders of columns. An order makes of `above` a conjugate, which
    // has the same smallest second row: what one permutation costs is saved for all of its conjugates.
    const SecondRow& second_row(const Line& above) {
        const Key asked = key_of(above);
        if (const auto known = second_rows_.find(asked); known != second_rows_.end()) return known->second;
        std::unordered_map<Key, Line> conjugates;  // each with an order that makes it
        std::vector<const Line*> smallest;
        Key least = ~Key(0);
        for (const Line& order : columns_) {
            const Line place = inverse(order);
            Line conjugate;
            for (int i = 0; i < size_; ++i) conjugate[i] = place[above[order[i]]];
            const Key key = key_of(conjugate);
            conjugates.emplace(key, order);
            if (key < least) least = key, smallest.clear();
            if (key == least) smallest.push_back(&order);
        }
        for (const auto& [key, order] : conjugates) {
            const Line place = inverse(order);
            SecondRow row{least, {}};
            for (const Line* best : smallest) {
                row.columns.emplace_back();
                for (int i = 0; i < size_; ++i) row.columns.back()[i] = place[(*best)[i]];
            }
            second_rows_.emplace(key, std::move(row));
        }
        return second_rows_.at(asked);
    }

    Line inverse(const Line& order) const {
        Line place;
        for (int i = 0; i < size_; ++i) place[order[i]] = static_cast<std::uint8_t>(i);
        return place;
    }

    // Sorts the rows by their labels in the first column, which are all different, and keeps the image if none is
    // smaller.
    void place_rows(const Start& start, const Line& columns) {
        Tie tie{start.turn, nullptr, columns, {}};
        const std::uint8_t* top = &start.grid[start.rows->front()[0] * size_];
        for (int c = 0; c < size_; ++c) tie.label[top[columns[c]]] = static_cast<std::uint8_t>(c + 1);
        Line head;
        for (int r = 0; r < size_; ++r) head[r] = tie.label[start.grid[r * size_ + columns[0]]];
        tie.rows = &*std::min_element(start.rows->begin(), start.rows->end(), [&](const Line& a, const Line& b) {
            int r = 2;
            while (r < size_ && a[r] == b[r]) ++r;
            return r < size_ && head[a[r]] < head[b[r]];
        });
        bool smaller = false;
        for (int r = 0; r < size_; ++r)
            for (int c = 0; c < size_; ++c) {
                const std::uint8_t label = tie.label[start.grid[(*tie.rows)[r] * size_ + columns[c]]];
                std::uint8_t& best = best_[r * size_ + c];
                if (!smaller && label > best) return;
                smaller |= label < best;
                best = label;
            }
        if (smaller) ties_.clear();
        ties_.push_back(tie);
    }

    int size_;
    std::vector<Cells> turns_;
    std::vector<Line> columns_;
    std::map<std::pair<int, int>, std::vector<Line>> rows_;  // by the first two
    std::unordered_map<Key, SecondRow> second_rows_;         // filled as permutations come up
    Cells best_;
    std::vector<Tie> ties_;
};

}  // namespace trm_fast::sudoku
