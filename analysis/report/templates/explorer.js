// The interactive curves. The data come from analysis/report/explorer.py.
if (page.able) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const FEW = 12; // points of a line that are marked
  const root = document.documentElement;

  const begin = async (box) => {
    const data = await page.unpack(box.dataset.packed);
    const control = (role) => page.part(box, role);
    const chart = control("chart");
    const view = { plot: null, zoom: null, at: null };

    const quantity = () => data.quantities.find((one) => one.id === control("quantity").value);
    const axis = () => data.axes.find((one) => one.id === control("axis").value);
    const lines = () => page.parts(box, "lines").find((one) => one.checked).value;
    const colour = (arm) => (dark.matches ? data.arms[arm].dark : data.arms[arm].colour);
    const shown = () => page.parts(box, "arm").filter((one) => one.checked).map((one) => Number(one.value));
    const curves = () => quantity().means[axis().id][control("window").value];
    const raw = (run) => [run.at[axis().id], run.values[quantity().id]];

    // Every point of a run as [x, y], where both are known.
    const points = (run, window) => {
      const [x, of] = raw(run);
      const y = of && of[window];
      if (!x || !y) return [];
      return x.map((at, i) => [at, y[i]]).filter(([at, value]) => at !== null && value !== null);
    };
    const runs = () => {
      const chosen = new Set(shown());
      return data.runs.filter((run) => chosen.has(run.arm));
    };

    // Windows that a quantity has too few points for cannot be chosen.
    const settle = () => {
      const possible = quantity().windows.map(String);
      for (const option of control("window").options) option.disabled = !possible.includes(option.value);
      if (!possible.includes(control("window").value)) control("window").value = "1";
      control("log").disabled = quantity().smallest === null;
      if (control("log").disabled) control("log").checked = false;
    };

    const extent = (values) => {
      let [low, high] = [Infinity, -Infinity];
      for (const value of values) {
        if (value === null || value === undefined || Number.isNaN(value)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
      return low <= high ? [low, high] : [0, 1];
    };

    // All that is drawn between two places on the x axis, for the range of the y axis.
    const heights = (from, to) => {
      const found = [];
      const inside = (x) => x >= from && x <= to;
      if (lines() === "mean") {
        for (const arm of shown()) {
          const curve = curves()[arm];
          if (curve) curve.x.forEach((x, i) => inside(x) && found.push(curve.mean[i], curve.low[i], curve.high[i]));
        }
      }
      const windows = lines() === "runs" ? [control("window").value, "1"] : control("window").value === "1" ? [] : ["1"];
      for (const run of runs()) for (const window of windows) for (const [x, y] of points(run, window)) inside(x) && found.push(y);
      return found;
    };

    const range = (from, to) => {
      const { bounds, smallest, linear_below: linear } = quantity();
      let [low, high] = extent(heights(from, to));
      if (control("log").checked) return [linear === null ? Math.max(low, smallest / 1.3) / 1.1 : 0, high * 1.3];
      const pad = 0.06 * (high - low || Math.abs(high) || 1);
      const zero = bounds[0] === 0 && low < 0.6 * high;
      low = zero ? 0 : bounds[0] === null ? low - pad : Math.max(bounds[0], low - pad);
      return [low, bounds[1] === null ? high + pad : Math.min(high + pad, bounds[1] + 0.02)];
    };

    // Bands, recorded points and single runs, below the lines.
    const draw = (plot) => {
      const { ctx, bbox } = plot;
      const ratio = uPlot.pxRatio;
      const place = (x, y) => [plot.valToPos(x, "x", true), plot.valToPos(Math.max(y, plot.scales.y.min), "y", true)];
      const path = (all) => all.forEach(([x, y], i) => (i ? ctx.lineTo(...place(x, y)) : ctx.moveTo(...place(x, y))));
      const dots = (all, size) => {
        for (const [x, y] of all) {
          ctx.beginPath();
          ctx.arc(...place(x, y), size * ratio, 0, 2 * Math.PI);
          ctx.fill();
        }
      };
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      for (const arm of lines() === "mean" ? shown() : []) {
        const curve = curves()[arm];
        if (!curve) continue;
        const known = curve.x.map((_, i) => i).filter((i) => curve.low[i] !== null);
        ctx.globalAlpha = dark.matches ? 0.24 : 0.16;
        ctx.fillStyle = colour(arm);
        ctx.beginPath();
        path(known.map((i) => [curve.x[i], curve.high[i]]).concat(known.reverse().map((i) => [curve.x[i], curve.low[i]])));
        ctx.closePath();
        ctx.fill();
      }
      const smoothed = control("window").value !== "1";
      for (const run of runs()) {
        ctx.strokeStyle = ctx.fillStyle = colour(run.arm);
        ctx.globalAlpha = 0.35;
        if (smoothed) dots(points(run, "1"), 1.3);
        if (lines() !== "runs") continue;
        const all = points(run, control("window").value);
        ctx.globalAlpha = 0.8;
        ctx.lineWidth = 1.3 * ratio;
        ctx.setLineDash(data.arms[run.arm].dash.map((part) => part * ratio));
        ctx.beginPath();
        path(all);
        ctx.stroke();
        if (all.length <= FEW) dots(all, 2.2);
      }
      ctx.restore();
    };

    // Of arms with one and the same curve the first is drawn wide and pale, the others dashed on it: all are seen.
    const equal = () =>
      quantity().equal.map((group) => group.filter((arm) => shown().includes(arm))).filter((group) => group.length > 1);
    const style = (arm) => {
      if (lines() === "runs") return { stroke: "transparent", width: 0 };
      const group = equal().find((one) => one.includes(arm));
      if (!group) return { stroke: colour(arm), width: 2, dash: data.arms[arm].dash };
      const at = group.indexOf(arm);
      return at ? { stroke: colour(arm), width: 2, dash: [5, 4 + 5 * at] } : { stroke: `${colour(arm)}88`, width: 7 };
    };

    // The value of a curve nearest to x; none beyond its ends.
    const nearest = (curve, x) => {
      if (!curve || x < curve.x[0] - 1e-9 || x > curve.x[curve.x.length - 1] + 1e-9) return null;
      let best = 0;
      curve.x.forEach((at, i) => {
        if (Math.abs(at - x) < Math.abs(curve.x[best] - x)) best = i;
      });
      return best;
    };

    const read = (x) => {
      view.at = x;
      const last = x === null;
      control("at").textContent = last
        ? "At the end of each curve"
        : `At ${axis().id === "step" ? `step ${page.number(x)}` : `${page.number(x)} ${axis().unit}`}`;
      for (const row of box.querySelectorAll("tr[data-arm]")) {
        const curve = curves()[Number(row.dataset.arm)];
        const i = curve && (last ? curve.x.length - 1 : nearest(curve, x));
        const [mean, interval, n] = row.querySelectorAll("td");
        const there = curve && i !== null;
        mean.textContent = there ? page.number(curve.mean[i]) : "-";
        interval.textContent = there && curve.low[i] !== null ? `${page.number(curve.low[i])} to ${page.number(curve.high[i])}` : "-";
        n.textContent = there ? curve.n[i] : "-";
      }
    };

    const tell = () => {
      const { label, notes, band, linear_below: linear } = quantity();
      const window = Number(control("window").value);
      const said = [];
      const most = Math.max(0, ...shown().map((arm) => data.arms[arm].runs));
      if (lines() === "mean") {
        said.push("Line: mean of the runs.");
        if (most >= data.least) said.push(band);
        if (shown().some((arm) => data.arms[arm].runs === 2)) said.push("Band of two runs: minimum to maximum.");
      } else said.push("Each line is one run; the table says the mean.");
      if (window > 1) said.push(`Each run is smoothed by a centred moving mean of ${window} recorded points before anything is averaged; the faint points are what was recorded.`);
      for (const group of equal()) said.push(`${group.map((arm) => data.arms[arm].name).join(" and ")} are equal at every step: their lines lie on each other.`);
      const absent = shown().filter((arm) => !curves()[arm]).map((arm) => data.arms[arm].name);
      if (absent.length) said.push(`Not drawn here: ${absent.join(", ")}.`);
      if (notes[axis().id]) said.push(notes[axis().id]);
      if (control("log").checked && linear !== null) said.push(`The axis is linear below about ${page.short(linear)}, so that 0 is on it.`);
      if (data.thinned) said.push(`Of a curve of more than ${data.points} points the lowest and highest of equal stretches are drawn.`);
      control("said").textContent = said.join(" ");
      control("title").textContent = label;
      control("interval").textContent = most === 2 ? "min to max" : "95 % interval";
      chart.setAttribute("aria-label", `${label} over ${axis().label}, a line for each loss. The table beside it has the values, the table below all points.`);
    };

    const rows = () => {
      const found = [["loss", axis().label, `mean ${quantity().label}`, "low", "high", "runs"]];
      for (const arm of shown()) {
        const curve = curves()[arm];
        if (curve) curve.x.forEach((x, i) => found.push([data.arms[arm].name, x, curve.mean[i], curve.low[i], curve.high[i], curve.n[i]]));
      }
      return found;
    };

    const list = () => {
      if (!control("numbers").open) return;
      const table = page.make("table");
      rows().forEach((row, at) => {
        const line = table.insertRow();
        row.forEach((cell) => line.append(page.make(at ? "td" : "th", typeof cell === "number" ? page.number(cell) : (cell ?? "-"))));
      });
      control("numbers").querySelector(".scroll").replaceChildren(table);
    };

    const save = () => {
      const cell = (value) => (/[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : (value ?? ""));
      const link = page.make("a");
      link.href = URL.createObjectURL(new Blob([rows().map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" }));
      link.download = `${quantity().id}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };

    const size = () => ({ width: chart.clientWidth, height: chart.clientWidth < 560 ? 280 : 380 });

    const build = () => {
      settle();
      const arms = shown().filter((arm) => curves()[arm]);
      const joined = arms.length ? uPlot.join(arms.map((arm) => [curves()[arm].x, curves()[arm].mean])) : [[0, 1]];
      const all = extent([...joined[0], ...(lines() === "runs" ? runs().flatMap((run) => points(run, "1").map(([x]) => x)) : [])]);
      const edge = arms.some((arm) => curves()[arm].x.length <= FEW) ? 0.03 * (all[1] - all[0] || 1) : 0;
      const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
      const log = control("log").checked;
      // An axis that is linear around 0 has a tick below 0, where it has already ended.
      const inside = (plot, ticks) => ticks.map((tick) => (tick !== null && tick < plot.scales.y.min - 1e-12 ? null : tick));
      const look = { stroke: css("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: css("--faint"), width: 1 }, ticks: { stroke: css("--line"), width: 1, size: 4 } };
      view.plot?.destroy();
      view.plot = new uPlot({
        ...size(),
        legend: { show: false },
        padding: [12, 14, 0, 0],
        scales: {
          x: { time: false, range: () => view.zoom ?? [all[0] - edge, all[1] + edge] },
          y: { range: () => range(...(view.zoom ?? [-Infinity, Infinity])), ...(log ? (quantity().linear_below === null ? { distr: 3 } : { distr: 4, asinh: quantity().linear_below }) : {}) },
        },
        axes: [
          { ...look, grid: { show: false }, label: axis().label, labelFont: "13px system-ui, sans-serif", labelSize: 24, size: 32, space: 60, values: (_, ticks) => ticks.map(page.short) },
          { ...look, grid: { ...look.grid, filter: inside }, ticks: { ...look.ticks, filter: inside }, size: 60, space: log ? 18 : 36, values: (plot, ticks) => inside(plot, ticks).map(page.short) },
        ],
        series: [{}, ...arms.map((arm) => ({ ...style(arm), spanGaps: true, points: { show: lines() === "mean" && curves()[arm].x.length <= FEW, size: 7, fill: colour(arm), stroke: colour(arm) } }))],
        cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: lines() === "mean", size: 8 } },
        hooks: {
          drawAxes: [draw],
          setCursor: [(plot) => {
            const idx = plot.cursor.idx;
            const over = plot.cursor.left >= 0 && idx !== null && idx !== undefined && arms.length;
            if (over) control("place").value = idx;
            read(over ? plot.data[0][idx] : null);
          }],
          setSelect: [(plot) => {
            const { left, width } = plot.select;
            if (width < 4) return;
            view.zoom = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
            build();
          }],
        },
      }, joined, chart);
      control("place").max = Math.max(0, joined[0].length - 1);
      control("place").value = control("place").max;
      control("place").disabled = !arms.length;
      control("whole").disabled = !view.zoom;
      tell();
      read(null);
      list();
    };

    const placed = () => {
      const plot = view.plot;
      const x = plot.data[0][Number(control("place").value)];
      plot.setCursor({ left: plot.valToPos(x, "x"), top: 10 });
      read(x);
      control("place").setAttribute("aria-valuetext", control("at").textContent);
    };

    box.addEventListener("change", ({ target }) => {
      const role = target.dataset.role;
      if (!role || role === "place") return;
      if (role === "axis") view.zoom = null;
      if (role === "quantity") control("log").checked = quantity().log;
      build();
    });
    control("place").addEventListener("input", placed);
    control("whole").addEventListener("click", () => {
      view.zoom = null;
      build();
      control("quantity").focus();
    });
    control("csv").addEventListener("click", save);
    control("numbers").addEventListener("toggle", list);
    dark.addEventListener("change", build);
    let width = chart.clientWidth;
    new ResizeObserver(() => {
      if (!chart.clientWidth || chart.clientWidth === width) return;
      width = chart.clientWidth;
      view.plot.setSize(size());
    }).observe(chart);
    control("log").checked = quantity().log;
    build();
    box.dataset.ready = "";
  };

  for (const box of document.querySelectorAll(".explorer")) {
    box.hidden = false;
    box.previousElementSibling.hidden = true;
    page.whenSeen(box, () => begin(box));
  }
}
