'use strict';
// Draws every chart of the page with Chart.js, in the colours of the style sheet.
(() => {
  const specs = JSON.parse(document.getElementById('chart-specs').textContent);
  const dashes = [[], [7, 4], [2, 3]];
  const charts = [];

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shade = (index) => colour(`--c${index % 8}`);
  const short = (value) => {
    if (value === null || value === undefined) return 'n/a';
    return String(Number.isInteger(value) ? value : Number(value.toPrecision(5)));
  };

  function lineData(spec) {
    const sets = spec.lines.map((one) => ({
      label: one.name,
      data: one.points.map(([x, y]) => ({ x, y })),
      notes: one.notes,
      borderColor: shade(one.colour),
      backgroundColor: shade(one.colour),
      borderDash: dashes[one.dash % 3],
      borderWidth: 1.8,
      pointRadius: spec.marks ? 3 : 0,
      pointHoverRadius: 4,
      pointHitRadius: 6,
    }));
    if (spec.diagonal) {
      sets.push({
        label: '', data: [{ x: 0, y: 0 }, { x: 1, y: 1 }],
        borderColor: colour('--muted'), borderDash: [3, 3], borderWidth: 1, pointRadius: 0, pointHitRadius: 0,
        pointHoverRadius: 0,
      });
    }
    return { datasets: sets };
  }

  function barData(spec) {
    return {
      labels: spec.categories,
      datasets: spec.bars.map((one) => ({
        label: one.name, data: one.values, backgroundColor: shade(one.colour),
        maxBarThickness: 16, categoryPercentage: 0.8, barPercentage: 0.95,
      })),
    };
  }

  function axis(title, more) {
    const muted = colour('--muted');
    const line = colour('--line');
    return {
      title: { display: Boolean(title), text: title, color: muted },
      border: { color: line },
      ...more,
      grid: { color: line, ...more.grid },
      ticks: { color: muted, ...more.ticks },
    };
  }

  // The end of the data gets a tick of its own, which may touch the one before it.
  function dropCrowdedEnd({ ticks }) {
    const last = ticks.length - 1;
    if (last < 2) return;
    const usual = ticks[1].value - ticks[0].value;
    if (ticks[last].value - ticks[last - 1].value < 0.7 * usual) ticks.pop();
  }

  function scales(spec) {
    if (spec.kind === 'bar') {
      const values = axis(spec.y, { beginAtZero: true, suggestedMax: spec.top });
      const names = axis('', { grid: { display: false }, ticks: { autoSkip: false } });
      return { y: names, x: values };
    }
    const x = axis(spec.x, { type: 'linear', bounds: 'data', beginAtZero: true,
      max: spec.right, ticks: { maxRotation: 0, maxTicksLimit: 7 },
      afterBuildTicks: dropCrowdedEnd });
    const y = axis(spec.y, { beginAtZero: spec.zero, suggestedMax: spec.top });
    return { x, y };
  }

  function label(item, spec) {
    const set = item.dataset;
    if (spec.kind === 'bar') return `${set.label}: ${short(item.raw)}`;
    const note = set.notes && set.notes[item.dataIndex];
    return `${set.label}: ${short(item.raw.y)}${note ? ` (${note})` : ''}`;
  }

  function gloss(items, spec) {
    if (!spec.glosses || !items.length) return undefined;
    return `${items[0].label}: ${spec.glosses[items[0].dataIndex]}`;
  }

  function options(spec) {
    const many = (spec.lines || spec.bars).length > 1;
    return {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      devicePixelRatio: Math.max(2, window.devicePixelRatio || 1),
      indexAxis: spec.kind === 'bar' ? 'y' : 'x',
      interaction: spec.kind === 'bar'
        ? { mode: 'index', axis: 'y', intersect: false }
        : { mode: 'nearest', axis: 'x', intersect: false },
      scales: scales(spec),
      plugins: {
        legend: {
          display: many,
          position: 'bottom',
          labels: { color: colour('--ink'), boxWidth: spec.kind === 'bar' ? 12 : 26, boxHeight: spec.kind === 'bar' ? 8 : 0,
            filter: (one) => one.text !== '' },
        },
        colors: { enabled: false },
        tooltip: {
          backgroundColor: colour('--ink'),
          titleColor: colour('--bg'),
          bodyColor: colour('--bg'),
          filter: (item) => item.dataset.label !== '',
          callbacks: {
            title: (items) => (spec.kind === 'bar' || !items.length ? gloss(items, spec)
              : `${spec.x} ${short(items[0].raw.x)}`),
            label: (item) => label(item, spec),
          },
        },
      },
    };
  }

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  function size(canvas) {
    const { bars, groups } = canvas.closest('figure').dataset;
    if (bars) {
      const height = 80 + Number(bars) * 15 + Number(groups) * 9;
      canvas.parentElement.style.height = `${height}px`;
    }
  }

  // Colours are settled when a chart is made, so that another scheme makes it anew.
  function draw() {
    charts.splice(0).forEach((chart) => chart.destroy());
    for (const spec of specs) {
      const canvas = document.querySelector(`canvas[data-chart="${CSS.escape(spec.id)}"]`);
      size(canvas);
      const data = spec.kind === 'bar' ? barData(spec) : lineData(spec);
      charts.push(new Chart(canvas, { type: spec.kind, data, options: options(spec) }));
    }
  }

  draw();
  // A click on a picture shows the pair as large as the window; another closes it.
  const zoom = document.getElementById('zoom');
  document.querySelectorAll('.pair').forEach((pair) => pair.addEventListener('click', () => {
    zoom.replaceChildren(pair.cloneNode(true));
    zoom.showModal();
  }));
  zoom.addEventListener('click', () => zoom.close());
  // A print says what is missing, too.
  addEventListener('beforeprint', () => {
    const missing = document.getElementById('missing');
    if (missing) missing.open = true;
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  // On paper the style sheet has colours and widths of its own.
  matchMedia('print').addEventListener('change', draw);
})();
