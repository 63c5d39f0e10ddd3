"use strict";
// Draws the figures from the data in the page. Texts enter as text nodes, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const dashes = { solid: "", dashed: "6 3.5", dotted: "1.5 3.2" };
  const root = document.documentElement;

  const node = (tag, attributes = {}, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) write(made, text);
    if (name) made.className = name;
    return made;
  };
  // a long name may go on in the next line behind / . _ or -, but not within a number; page.py has the same
  const BREAK = /(?<=[\p{L}\p{N}_][/_])(?=[\p{L}\p{N}_])|(?<=[\p{L}_]\.)(?=[\p{L}\p{N}_])|(?<=[\p{L}\p{N}_]\.)(?=[\p{L}_])/u;
  const write = (place, text) => place.replaceChildren(...text.split(BREAK).flatMap((part, at) => (at ? [element("wbr"), part] : [part])));
  const tone = (word) => (word === "ink" ? "var(--ink)" : /^\d+$/.test(word) ? `var(--t${word % 8})` : `var(--${word})`);
  const number = (value) => {
    const size = Math.abs(value);
    const text = size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.1 || !size ? value.toFixed(2) : value.toPrecision(2);
    return text.replace("-", "−");
  };
  const ticks = (low, high, wanted) => {
    const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
    const found = [];
    // counted, as adding a step to a much larger number changes nothing
    for (let i = 0, first = Math.ceil(low / step - 1e-9); i <= 4 * wanted; i++) {
      const at = (first + i) * step;
      if (at <= high + step * 1e-6) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
    }
    return found;
  };
  // of a logarithmic axis, between powers of ten
  const levels = (low, high) => {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) {
      for (const one of [1, 2, 5]) found.push({ one, at: one * 10 ** power });
    }
    const inside = found.filter(({ at }) => Math.log10(at) >= low && Math.log10(at) <= high);
    const tens = inside.filter(({ one }) => one === 1);
    if (inside.length < 2) return ticks(10 ** low, 10 ** high, 4);
    return (inside.length > 6 ? tens : inside).map(({ at }) => at);
  };
  const plain = (value) => `${+value.toPrecision(6)}`.replace("-", "−");
  const present = (values) => values.filter((value) => value !== null && value !== undefined);

  function draw(place, figure, panel, chosen) {
    const shown = figure.picked ? [chosen] : panel.series.map((_, at) => at);
    const width = Math.max(260, place.clientWidth), height = Math.round(Math.min(400, Math.max(250, width * 0.4)));
    const box = { left: 46, right: width - 10, top: 22, bottom: height - 44 };
    const xs = panel.series.flatMap((one) => one.x);
    const bounded = (one) => [...one.y, ...(one.low || []), ...(one.high || [])];
    const ys = present(figure.same_y
      ? figure.panels.flatMap((other) => other.series.flatMap(bounded))
      : panel.series.flatMap((one, at) => (shown.includes(at) ? bounded(one) : one.y)));
    const bend = figure.log ? Math.log2 : (value) => value;
    let [x0, x1] = [Math.min(...xs.map(bend)), Math.max(...xs.map(bend))];
    const rise = figure.log_y ? Math.log10 : (value) => value;
    let [y0, y1] = [Math.min(...ys.map(rise)), Math.max(...ys.map(rise))];
    if (figure.zero) y0 = Math.min(0, y0);
    const spare = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
    y1 += spare;
    if (!figure.zero || y0 < 0) y0 -= spare;
    const margin = (x1 - x0 || 1) * 0.025;
    x0 -= margin; x1 += margin;
    const X = (value) => box.left + ((bend(value) - x0) / (x1 - x0)) * (box.right - box.left);
    const Y = (value) => box.bottom - ((rise(value) - y0) / (y1 - y0)) * (box.bottom - box.top);

    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": `${figure.title}. ${panel.name}. ${panel.caption} Arrow keys go from point to point.` });
    svg.append(node("title", {}, `${figure.title}: ${panel.name}`));
    for (const [low, high] of panel.shaded) {
      const from = Math.max(box.left, X(low)), to = Math.min(box.right, X(high));
      svg.append(node("rect", { class: "band", x: from, y: box.top, width: Math.max(0, to - from), height: box.bottom - box.top }));
    }
    for (const at of figure.log_y ? levels(y0, y1) : ticks(y0, y1, 5)) {
      svg.append(node("line", { class: "grid", x1: box.left, x2: box.right, y1: Y(at), y2: Y(at) }));
      svg.append(node("text", { x: box.left - 8, y: Y(at) + 4, "text-anchor": "end" }, plain(at)));
    }
    let marks = ticks(x0, x1, width < 500 ? 4 : 8);
    if (figure.log || figure.marks) {
      // the last of those whose numbers would touch
      const every = [...new Set(xs)].sort((a, b) => b - a);
      marks = every.reduce((kept, at) => (kept.length && X(kept.at(-1)) - X(at) < 26 ? kept : [...kept, at]), []);
    }
    for (const at of marks) if (X(at) >= box.left - 1) svg.append(node("text", { x: X(at), y: box.bottom + 18, "text-anchor": "middle" }, plain(at)));
    svg.append(node("text", { x: box.left, y: 11 }, panel.y || figure.y));
    svg.append(node("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, figure.x));

    const points = [];
    const curves = panel.series.filter((one) => one.joined);
    panel.series.forEach((one, at) => {
      // curves with bars stand beside each other, as one point may hide another
      const aside = figure.bars && one.joined ? 6 * (curves.indexOf(one) - (curves.length - 1) / 2) : 0;
      const U = (value) => X(value) + aside;
      const faint = figure.picked && at !== chosen;
      const colour = faint ? "var(--line)" : tone(one.tone);
      const group = node("g", { stroke: colour, fill: "none", opacity: faint ? 0.8 : 1 });
      const bars = !faint && one.low && one.high;
      if (bars && one.joined && !figure.bars) {
        const spans = [];
        one.x.forEach((x, i) => {
          if (one.low[i] === null) { spans.push([]); return; }
          if (!spans.length) spans.push([]);
          spans.at(-1).push(i);
        });
        for (const span of spans.filter((found) => found.length > 1)) {
          const edge = [...span.map((i) => `${U(one.x[i])},${Y(one.high[i])}`), ...span.reverse().map((i) => `${U(one.x[i])},${Y(one.low[i])}`)];
          group.append(node("polygon", { points: edge.join(" "), fill: colour, "fill-opacity": 0.15, stroke: "none" }));
        }
      } else if (bars) {
        one.x.forEach((x, i) => {
          if (one.low[i] !== null && one.high[i] !== null) group.append(node("line", { x1: U(x), x2: U(x), y1: Y(one.low[i]), y2: Y(one.high[i]), "stroke-width": 1.4, opacity: 0.55 }));
        });
      }
      if (one.joined) group.append(node("polyline", { points: one.x.map((x, i) => `${U(x)},${Y(one.y[i])}`).join(" "), "stroke-width": 1.5, "stroke-linejoin": "round", "stroke-dasharray": dashes[one.dash] }));
      if (!faint) one.x.forEach((x, i) => {
        group.append(node("circle", { cx: U(x), cy: Y(one.y[i]), r: one.x.length > 90 ? 2.1 : 2.9, fill: one.hollow ? "var(--paper)" : colour, "stroke-width": 1.3 }));
        if (one.unsound?.[i]) group.append(node("rect", { class: "unsound", x: U(x) - 5.5, y: Y(one.y[i]) - 5.5, width: 11, height: 11, stroke: "var(--ink)" }));
        points.push({ at, i, px: U(x), py: Y(one.y[i]) });
      });
      group.setAttribute("class", faint ? "faint" : "drawn");
      faint ? svg.insertBefore(group, svg.querySelector(".drawn")) : svg.append(group);
    });
    const ring = node("circle", { r: 6, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, visibility: "hidden" });
    svg.append(ring);
    place.replaceChildren(svg);
    hover(place, svg, ring, figure, panel, points, width);
  }

  function hover(place, svg, ring, figure, panel, points, width) {
    const tip = element("div", undefined, "tip");
    tip.setAttribute("role", "status");
    tip.hidden = true;
    place.append(tip);
    let current = -1;
    const show = (index) => {
      current = index;
      const { at, i, px, py } = points[index], one = panel.series[at];
      ring.setAttribute("cx", px); ring.setAttribute("cy", py); ring.setAttribute("visibility", "visible");
      const error = one.high && one.high[i] !== null ? ` (${number(one.low[i])} to ${number(one.high[i])})` : "";
      const lines = [element("b", one.names ? data.names[one.names[i]] : one.name)];
      lines.push(element("div", one.name), element("div", `${panel.y || figure.y}: ${number(one.y[i])}${error}`));
      if (!/^depth/.test(figure.x)) lines.push(element("div", `${figure.x}: ${number(one.x[i])}`));
      for (const [title, values] of Object.entries(one.facts || {})) lines.push(element("div", `${title}: ${values[i]}`));
      if (one.unsound?.[i]) lines.push(element("div", `unreliable: ${one.unsound[i]}`));
      tip.replaceChildren(...lines);
      tip.hidden = false;
      const half = tip.offsetWidth / 2;
      tip.style.left = `${Math.min(Math.max(px - half, 0), width - 2 * half)}px`;
      tip.style.top = `${py - tip.offsetHeight - 14 < -30 ? py + 14 : py - tip.offsetHeight - 14}px`;
    };
    const hide = () => { tip.hidden = true; ring.setAttribute("visibility", "hidden"); };
    svg.addEventListener("pointermove", (event) => {
      const bounds = svg.getBoundingClientRect();
      const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
      let best = -1, least = 40 ** 2;
      points.forEach((point, index) => {
        const distance = (point.px - x) ** 2 + (point.py - y) ** 2;
        if (distance < least) { best = index; least = distance; }
      });
      best < 0 ? hide() : show(best);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !points.length) return;
      event.preventDefault();
      show((current + step + points.length) % points.length);
    });
  }

  function legend(place, figure, panel) {
    const entry = (name, ...signs) => {
      const item = element("li"), key = node("svg", { width: 26, height: 12, "aria-hidden": "true" });
      key.append(...signs);
      item.append(key, element("span", name));
      return item;
    };
    const items = figure.picked ? [] : panel.series.map((one) => {
      const signs = [];
      if (one.joined) signs.push(node("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: tone(one.tone), "stroke-width": 1.6, "stroke-dasharray": dashes[one.dash] }));
      signs.push(node("circle", { cx: 13, cy: 6, r: 3, stroke: tone(one.tone), "stroke-width": 1.3, fill: one.hollow ? "var(--paper)" : tone(one.tone) }));
      return entry(one.name, ...signs);
    });
    if (panel.series.some((one) => one.unsound)) {
      items.push(entry(figure.unreliable, node("rect", { x: 7.5, y: 0.5, width: 11, height: 11, fill: "none", stroke: "var(--ink)" })));
    }
    place.replaceChildren(...items);
  }

  function facts(place, series) {
    place.replaceChildren(...Object.entries(series.about || {}).map(([title, value]) => {
      const pair = element("div");
      pair.append(element("dt", title), element("dd", value));
      return pair;
    }));
  }

  function listing(place, figure, panel) {
    const table = element("table"), head = element("tr"), body = element("tbody");
    const unsound = panel.series.some((one) => one.unsound) ? ["unreliable"] : [];
    for (const title of ["series", "point", figure.x.split(" (")[0], panel.y || figure.y, `${figure.bounds}: low`, "high", ...unsound]) head.append(element("th", title));
    for (const one of panel.series) one.x.forEach((x, i) => {
      const row = element("tr");
      const cells = [one.name, one.names ? data.names[one.names[i]] : "", plain(x), number(one.y[i])];
      for (const bound of [one.low, one.high]) cells.push(bound && bound[i] !== null ? number(bound[i]) : "");
      if (unsound.length) cells.push(one.unsound?.[i] || "");
      for (const cell of cells) row.append(element("td", cell));
      body.append(row);
    });
    const top = element("thead");
    top.append(head);
    table.append(top, body);
    const wide = element("div", undefined, "wide");
    wide.append(table);
    place.replaceChildren(wide);
    fit(wide);
  }

  // whether a closed list shows all of the name that is chosen, beside its arrow
  function roomy(list) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = getComputedStyle(list).font;
    return pen.measureText(list.selectedOptions[0].text).width < list.clientWidth - 40;
  }

  // a table that is wider than its place moves together, or becomes a list: nothing of it is cut off
  function fit(wide) {
    const table = wide.firstElementChild, heads = [...table.querySelectorAll("thead tr:last-child th")];
    const fits = () => table.offsetWidth <= wide.clientWidth;
    table.className = "";
    if (fits()) return;
    table.className = "tight";
    if (fits()) return;
    for (const row of table.tBodies[0].rows) heads.forEach((head, at) => { if (at) row.cells[at].dataset.head = head.textContent; });
    table.className = "stacked";
  }

  const sizes = new Map();
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (sizes.get(target) !== target.clientWidth) fit(target);
      sizes.set(target, target.clientWidth);
    }
  });
  for (const wide of document.querySelectorAll(".wide")) {
    fit(wide);
    resized.observe(wide);
  }

  for (const place of document.querySelectorAll("figure[data-figure]")) {
    const figure = data.figures[place.dataset.figure];
    const plot = place.querySelector(".plot"), about = place.querySelector(".facts"), numbers = place.querySelector(".numbers");
    const name = place.querySelector(".panel");
    const [which, layer] = [place.querySelector(".which"), place.querySelector(".layer")];
    const panel = () => figure.panels[which ? which.value : 0];
    const redraw = () => {
      place.classList.toggle("few", panel().few);
      if (panel().few) listing(plot, figure, panel());
      else draw(plot, figure, panel(), layer ? +layer.value : 0);
      write(name, panel().name);
      name.hidden = which && roomy(which);
      legend(place.querySelector(".legend"), figure, panel());
      if (layer) facts(about, panel().series[layer.value]);
      write(place.querySelector(".caption"), panel().caption);
      write(place.querySelector(".sources"), panel().sources);
      if (numbers.parentElement.open) listing(numbers, figure, panel());
    };
    const layers = () => layer && layer.replaceChildren(...panel().series.map((one, at) => new Option(one.name, at)));
    layers();
    if (which) which.addEventListener("change", () => { layers(); redraw(); });
    if (layer) layer.addEventListener("change", redraw);
    numbers.parentElement.addEventListener("toggle", redraw);
    let width;
    const refit = () => {
      if (plot.clientWidth !== width) { width = plot.clientWidth; redraw(); }
    };
    // at once, as a page that is printed straight away has no frame for the observer to come with
    refit();
    new ResizeObserver(refit).observe(plot);
  }

  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  const theme = location.hash.match(/^#(dark|light)$/);
  if (theme) root.dataset.theme = theme[1];
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  label();
  // paper has no folds
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.print:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
