// A grid of cells: sudoku, maze or colors; to look at, or to type into with keys, mouse or touch.

import { announce, button, el } from "./dom.js";

const MAZE_CLASSES = { "#": "wall", S: "start", G: "goal", o: "path" };
const SPOKEN = { "#": "wall", " ": "free", S: "start", G: "goal", o: "path", "?": "unknown", "": "blank" };

export class Grid {
  /** view: rows, columns, box, symbols and palette. onEdit(cells): makes the grid editable. */
  constructor(view, { label, onEdit = null, small = false }) {
    this.view = view;
    this.onEdit = onEdit;
    this.cells = Array(view.rows * view.columns).fill(this.empty);
    this.current = 0;
    this.node = el("div", {
      role: "grid", "aria-label": label, class: ["grid", view.palette, onEdit && "editable", small && "small"].filter(Boolean).join(" "),
      "--columns": view.columns, "aria-readonly": onEdit ? null : "true", onkeydown: (event) => this.key(event),
    });
    this.nodes = [];
    for (let row = 0; row < view.rows; row++) {
      const line = el("div", { role: "row" });
      for (let column = 0; column < view.columns; column++) line.append(this.makeCell(row, column));
      this.node.append(line);
    }
    this.draw();
  }

  /** The token of a cell without content. */
  get empty() {
    return this.view.palette === "maze" ? 2 : this.view.palette === "digits" ? 1 : 0;
  }

  makeCell(row, column) {
    const index = row * this.view.columns + column;
    const cell = el("div", { role: "gridcell", tabindex: index ? -1 : 0, onclick: () => this.select(index), onfocus: () => this.rove(index) });
    const [boxRows, boxColumns] = this.view.box || [0, 0];
    if (boxColumns && (column + 1) % boxColumns === 0 && column + 1 < this.view.columns) cell.classList.add("box-right");
    if (boxRows && (row + 1) % boxRows === 0 && row + 1 < this.view.rows) cell.classList.add("box-bottom");
    cell.dataset.fixed = cell.className;
    this.nodes.push(cell);
    return cell;
  }

  /** Shows cells. question: its cells, whose filled ones are set off. confidence: percent by cell. */
  draw({ cells = this.cells, question = null, confidence = null, conflicts = [], previous = null } = {}) {
    this.cells = [...cells];
    const wrong = new Set(conflicts);
    this.nodes.forEach((node, index) => {
      const symbol = this.view.symbols[cells[index]] ?? "?";
      const given = question !== null && this.isGiven(question[index]);
      const classes = [node.dataset.fixed];
      if (this.view.palette === "maze" && MAZE_CLASSES[symbol]) classes.push(MAZE_CLASSES[symbol]);
      if (this.view.palette === "colors" && symbol !== "") classes.push(`c${symbol}`);
      if (given && this.view.palette === "digits") classes.push("given");
      else if (confidence && this.view.palette === "digits") classes.push("shaded");
      if (wrong.has(index)) classes.push("conflict");
      if (previous && previous[index] !== cells[index]) classes.push("changed");
      const name = classes.filter(Boolean).join(" ");
      if (classes.includes("changed") && node.className === name) node.classList.remove("changed"), node.offsetWidth;
      node.className = name;
      node.style.setProperty("--sure", confidence ? confidence[index] / 100 : this.view.palette === "maze" ? 1 : 0);
      node.textContent = this.view.palette === "maze" && "# o".includes(symbol) ? "" : symbol;
      const spoken = SPOKEN[symbol] ?? symbol;
      const row = Math.floor(index / this.view.columns) + 1;
      const sure = confidence && !given ? `, ${confidence[index]} %` : "";
      node.setAttribute("aria-label", `row ${row}, column ${(index % this.view.columns) + 1}: ${spoken}${given && this.view.palette === "digits" ? ", given" : ""}${wrong.has(index) ? ", conflict" : ""}${sure}`);
    });
  }

  isGiven(token) {
    return this.view.palette === "digits" ? token > 1 : this.view.palette === "maze" ? token !== 2 : false;
  }

  rove(index) {
    this.nodes[this.current].tabIndex = -1;
    this.current = index;
    this.nodes[index].tabIndex = 0;
  }

  select(index) {
    this.nodes[index].focus();
  }

  /** Puts a symbol into the current cell, as a key does. */
  type(symbol) {
    const token = this.view.symbols.indexOf(symbol);
    const value = symbol === "" ? this.empty : token;
    if (value < 0 || !this.onEdit) return false;
    if (this.view.palette === "maze" && (symbol === "S" || symbol === "G")) {
      this.cells = this.cells.map((cell) => (cell === value ? 2 : cell)); // there is one start and one goal
    }
    this.cells[this.current] = value;
    this.draw();
    this.onEdit(this.cells);
    return true;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { rows, columns } = this.view;
    const [row, column] = [Math.floor(this.current / columns), this.current % columns];
    const moves = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [row, 0], End: [row, columns - 1], PageUp: [0, column], PageDown: [rows - 1, column],
    };
    if (moves[event.key]) {
      const [r, c] = moves[event.key];
      if (r >= 0 && c >= 0 && r < rows && c < columns) this.select(r * columns + c);
      event.preventDefault();
      return;
    }
    if (!this.onEdit) return;
    const aliases = { Backspace: "", Delete: "", 0: "", ".": "", "-": "", _: "" };
    let symbol = event.key in aliases ? aliases[event.key] : event.key;
    if (this.view.palette === "maze") symbol = { s: "S", g: "G", ".": "", " ": "", w: "#" }[event.key] ?? symbol;
    else if (symbol === " ") symbol = "";
    if (symbol.length <= 1 && this.type(symbol)) event.preventDefault();
  }

  /** Buttons that type, for touch and mouse. */
  keys() {
    const maze = this.view.palette === "maze";
    const symbols = maze ? ["#", "", "S", "G"] : [...this.view.symbols.filter((symbol) => symbol !== ""), ""];
    const names = maze ? { "#": "wall", "": "free", S: "start", G: "goal" } : { "": "erase" };
    const type = (symbol) => {
      this.type(symbol);
      announce(`${names[symbol] || symbol} at ${this.nodes[this.current].getAttribute("aria-label")}`);
    };
    return el("div", { class: "palette", role: "group", "aria-label": "Type into the selected cell" },
      symbols.map((symbol) => button(names[symbol] || symbol, () => type(symbol))));
  }

  /** The cells as the text that the server reads. */
  text() {
    const { rows, columns, symbols, palette } = this.view;
    const characters = this.cells.map((token) => {
      const symbol = symbols[token] ?? "";
      return symbol === "" || symbol === " " ? "." : symbol;
    });
    if (palette !== "maze") return characters.join("");
    return Array.from({ length: rows }, (_, row) => characters.slice(row * columns, (row + 1) * columns).join("")).join("\n");
  }

  /** A picture of the grid. */
  async png() {
    const { rows, columns, box, palette } = this.view;
    const size = Math.max(8, Math.min(48, Math.floor(960 / columns)));
    const canvas = el("canvas", { width: columns * size + 2, height: rows * size + 2 });
    const context = canvas.getContext("2d");
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.textAlign = "center";
    context.textBaseline = "middle";
    this.nodes.forEach((node, index) => {
      const [x, y] = [1 + (index % columns) * size, 1 + Math.floor(index / columns) * size];
      const style = getComputedStyle(node);
      context.fillStyle = style.backgroundColor;
      context.fillRect(x, y, size, size);
      context.strokeStyle = style.getPropertyValue("--line");
      context.strokeRect(x, y, size, size);
      context.fillStyle = palette === "colors" ? "transparent" : style.color;
      context.font = `${node.classList.contains("given") ? "bold " : ""}${Math.round(size * 0.6)}px sans-serif`;
      context.fillText(node.textContent, x + size / 2, y + size / 2 + 1);
    });
    if (box) {
      context.fillStyle = getComputedStyle(this.node).borderTopColor;
      for (let row = 0; row <= rows; row += box[0]) context.fillRect(0, row * size, canvas.width, 2);
      for (let column = 0; column <= columns; column += box[1]) context.fillRect(column * size, 0, 2, canvas.height);
    }
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
}
