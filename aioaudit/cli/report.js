// The script of a report: it reads the data of the page, piece by piece, and draws it.
//
// Whatever comes from the log gets into the page as text (textContent, attributes of SVG by
// setAttribute), never as HTML.  Times are microseconds since `overview.began`.

"use strict";

(() => {
  const MORE = 50; // rows that are added at a time
  const MOST_RESULTS = 100;
  const MOST_LANES = 40; // tasks with a lane of their own; of more, groups have one
  const TURN = 25; // milliseconds of search before the browser may paint

  const byId = (id) => document.getElementById(id);
  const overview = JSON.parse(byId("overview-data").textContent);
  const main = document.querySelector("main");
  const panel = byId("incident");
  const search = byId("search");
  const pieces = [];

  // Data

  /** The object that a row of the data stands for. */
  function named(kind, row) {
    const object = {};
    overview.names[kind].forEach((name, place) => { object[name] = row[place]; });
    return object;
  }

  /** A piece of the data, parsed when it is first asked for. */
  function piece(number) {
    pieces[number] ??= JSON.parse(byId(`piece-${number}`).textContent);
    return pieces[number];
  }

  /** The number of the piece that an incident is in. */
  function pieceOf(incident) {
    let low = 0;
    let high = overview.pieces.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (overview.pieces[middle] <= incident) low = middle; else high = middle;
    }
    return low;
  }

  /** All of an incident. */
  function incidentAt(number) {
    const where = pieceOf(number);
    const { texts, incidents } = piece(where);
    const found = named("incident", incidents[number - overview.pieces[where]]);
    found.nodes = found.nodes.map((row) => named("node", row));
    found.tasks = found.tasks.map((row) => named("task", row));
    found.actors = found.actors.map((row) => named("actor", row));
    found.findings = found.findings.map((row) => named("found", row));
    found.texts = texts;
    found.cause = causeOf(number);
    return found;
  }

  function causeOf(incident) {
    return overview.causes.findIndex((cause) => cause.start <= incident && incident < cause.stop);
  }

  // Words

  const several = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  const known = (values) => values.filter((value) => value !== null);

  function least(values) {
    return values.reduce((one, other) => (other < one ? other : one), Infinity);
  }

  function greatest(values) {
    return values.reduce((one, other) => (other > one ? other : one), -Infinity);
  }

  /** 14:02:11.873, with the date before it where the report is of more than a day. */
  function clock(micros) {
    if (micros === null) return "?";
    const date = new Date(overview.began + Math.floor(micros / 1000));
    if (Number.isNaN(date.getTime())) return "?";
    const text = date.toISOString();
    return days ? text.slice(0, -1).replace("T", " ") : text.slice(-13, -1);
  }

  function span(micros) {
    return Math.abs(micros) < 1e6 ? `${(micros / 1e3).toFixed(1)} ms` : `${(micros / 1e6).toFixed(3)} s`;
  }

  function shortened(text, most, tail = false) {
    const characters = [...text];
    if (characters.length <= most) return text;
    return tail
      ? `…${characters.slice(1 - most).join("")}`
      : `${characters.slice(0, most - 1).join("")}…`;
  }

  /** *text* in at most so many lines, broken where there is a blank. */
  function wrapped(text, width, most) {
    const lines = [];
    let line = "";
    for (const word of text.split(" ")) {
      if (line && line.length + word.length >= width) {
        lines.push(line);
        line = "";
      }
      line = line ? `${line} ${word}` : word;
    }
    lines.push(line);
    const shown = lines.slice(0, most).map((each) => shortened(each, width, each.includes("/")));
    if (lines.length > most) shown[most - 1] = `${shortened(lines[most - 1], width - 2)} …`;
    return shown;
  }

  // Elements

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const el = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);

  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  function button(attributes, act, ...children) {
    const made = el("button", { type: "button", ...attributes }, ...children);
    made.addEventListener("click", act);
    return made;
  }

  /** Put rows into a list, a few at a time; the last item asks for more. */
  function listed(list, count, row) {
    let shown = 0;
    const add = () => {
      const first = shown;
      shown = Math.min(count, shown + MORE);
      for (let each = first; each < shown; each += 1) list.append(row(each));
      if (first && list.children[first]) list.children[first].querySelector("button, summary")?.focus();
      if (shown < count) {
        const left = count - shown;
        const item = el("li", {}, button({ class: "more-button" }, () => { item.remove(); add(); },
          `${Math.min(left, MORE)} more of ${left.toLocaleString("en")}`));
        list.append(item);
      }
    };
    add();
    return list;
  }

  function badge(sure) {
    return sure === "observed" ? null : el("span", { class: `sure ${sure}` }, sure);
  }

  // The overview: root causes, over time

  const times = known(overview.at);
  const first = times.length ? least(times) : 0;
  const last = times.length ? greatest(times) : 0;
  const days = last - first > 43200e6;

  const colour = (cause) => `c${Math.min(cause, 5)}`;

  function drawChart(into) {
    const bins = 72;
    const [width, height] = [720, 96];
    const length = Math.max(last - first, 1);
    const tasks = Array.from({ length: bins }, () => [0, 0, 0, 0, 0, 0]);
    overview.causes.forEach((cause, number) => {
      for (let each = cause.start; each < cause.stop; each += 1) {
        if (overview.at[each] === null) continue;
        const bin = Math.min(bins - 1, Math.floor(((overview.at[each] - first) / length) * bins));
        tasks[bin][Math.min(number, 5)] += overview.hit[each];
      }
    });
    const sums = tasks.map((bin) => bin.reduce((one, other) => one + other, 0));
    const most = Math.max(greatest(sums), 1);
    const bars = [];
    tasks.forEach((bin, place) => {
      let y = height;
      bin.forEach((count, number) => {
        if (!count) return;
        const tall = Math.max((count / most) * (height - 4), 1.5);
        y -= tall;
        const x = (place / bins) * width;
        const what = number < 5 ? overview.causes[number].text : "other root causes";
        bars.push(svg("rect", { class: `c${number}`, x, y, width: width / bins - 1.5, height: tall },
          svg("title", {}, `${several(count, "task")} at ${clock(first + (place / bins) * length)}: ${what}`)));
      });
    });
    const rate = last > first ? `, up to ${several(most, "task")} in ${span(length / bins)}` : "";
    into.append(
      svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", width: "100%", height, role: "img",
        "aria-label": `Tasks cancelled over time, by root cause${rate}` }, ...bars),
      el("div", { class: "dim scale" }, el("span", {}, clock(first)), el("span", {}, rate.slice(2)),
        el("span", {}, last > first ? clock(last) : "")));
  }

  function incidentButton(number, text) {
    return button({ "data-incident": number }, () => open(number), text);
  }

  function incidentRow(number) {
    const run = overview.runs.length > 1 ? `, ${overview.runs[incidentAt(number).run]}` : "";
    return el("li", {}, incidentButton(number,
      `${clock(overview.at[number])}  ${several(overview.hit[number], "task")}${run}`));
  }

  function wireCauses() {
    for (const row of document.querySelectorAll(".cause")) {
      const number = Number(row.dataset.cause);
      const cause = overview.causes[number];
      const list = el("ol", { class: "incidents", id: `incidents-${number}`, hidden: true });
      const opener = button({ "aria-expanded": "false", "aria-controls": list.id }, () => {
        const opens = list.hidden;
        list.hidden = !opens;
        opener.setAttribute("aria-expanded", String(opens));
        if (opens && !list.children.length) {
          listed(list, cause.stop - cause.start, (each) => incidentRow(cause.start + each));
        }
        if (opens && cause.stop - cause.start === 1) open(cause.start);
      }, ...row.childNodes);
      opener.prepend(el("span", { class: `swatch ${colour(number)}` }));
      row.append(opener);
      row.after(list);
    }
  }

  // One incident

  let opened = null;
  let opener = null;

  function open(number) {
    opener = document.activeElement;
    const hash = `#incident-${number}`;
    if (location.hash === hash) show(); else location.hash = hash;
  }

  function close() {
    history.replaceState(null, "", location.pathname + location.search);
    show();
    if (opener?.isConnected) opener.focus();
  }

  /** Show what the address asks for. */
  function show() {
    const asked = /^#incident-(\d+)$/.exec(location.hash);
    const number = asked ? Number(asked[1]) : -1;
    opened = number >= 0 && number < overview.at.length ? number : null;
    panel.hidden = opened === null;
    main.classList.toggle("two", opened !== null);
    for (const each of document.querySelectorAll("[data-incident]")) {
      each.setAttribute("aria-current", String(Number(each.dataset.incident) === opened));
    }
    panel.replaceChildren();
    if (opened === null) return;
    drawIncident(incidentAt(opened));
    panel.focus({ preventScroll: true });
    const { top } = panel.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) panel.scrollIntoView();
  }

  function drawIncident(incident) {
    const cause = overview.causes[incident.cause];
    const root = incident.texts[incident.nodes[0].title];
    const evidence = el("ol", { class: "evidence", id: "evidence" });
    const tasks = el("section", { class: "tasks", id: "tasks" });
    const biggest = incident.nodes.reduce((best, node, place) =>
      (node.tasks > incident.nodes[best].tasks ? place : best), 0);
    const graph = drawGraph(incident, (node) => select(node, node));
    const query = search.value.trim().toLowerCase();
    const matching = query ? incident.tasks.filter((task) => isTask(task, incident, query)) : [];

    function select(node, only) {
      for (const each of graph.querySelectorAll(".node")) {
        each.setAttribute("aria-pressed", String(Number(each.dataset.node) === node));
      }
      evidence.replaceChildren(...steps(incident, node));
      drawTasks(tasks, incident, only, only === null && matching.length ? matching : null);
    }

    panel.append(
      button({ class: "back" }, close, "← all root causes"),
      el("h2", {}, root, " ", badge(incident.nodes[0].sure)),
      el("p", { class: "dim" }, `${clock(incident.at)} UTC, ${several(incident.hit, "task")}, ${overview.runs[incident.run]}`),
      root.startsWith(cause.text) ? "" : el("p", { class: "dim" }, `counted under: ${cause.text}`),
      el("h3", {}, "Who cancelled whom"),
      el("div", { class: "scroll" }, graph),
      evidence,
      el("h3", {}, "Time line"),
      el("div", { class: "scroll" }, drawTimeline(incident)),
    );
    if (incident.findings.length) panel.append(el("h3", {}, "Findings"), drawFindings(incident));
    panel.append(tasks);
    select(biggest, null);
  }

  /** What led to *node*, from the root cause on. */
  function steps(incident, node) {
    const way = [];
    for (let each = node; each >= 0; each = incident.nodes[each].parent) way.unshift(each);
    return way.map((each) => {
      const { lines, sure } = incident.nodes[each];
      const [head, ...more] = lines.map((number) => incident.texts[number]);
      return el("li", {}, head, " ", badge(sure), ...more.map((line) => el("div", { class: "more" }, line)));
    });
  }

  function drawGraph(incident, choose) {
    const [wide, across, gap, line] = [236, 96, 12, 15];
    const nodes = incident.nodes.map((node, number) => {
      const texts = wrapped(incident.texts[node.title], 31, node.parent < 0 ? 6 : 2)
        .map((text) => ["strong", text]);
      const waited = incident.texts[node.waited];
      if (waited) texts.push(["dim", shortened(`waited at ${waited}`, 40, true)]);
      if (node.kind === "task" && node.tasks !== node.requests) texts.push(["dim", several(node.tasks, "task")]);
      return { ...node, number, texts, below: [], tall: texts.length * line + 12 };
    });
    for (const node of nodes) if (node.parent >= 0) nodes[node.parent].below.push(node);
    const place = (node, depth, top) => {
      let y = top;
      for (const child of node.below) y = place(child, depth + 1, y) + gap;
      const end = Math.max(node.below.length ? y - gap : top, top + node.tall);
      node.x = depth * (wide + across);
      node.y = (top + end - node.tall) / 2;
      return end;
    };
    const height = place(nodes[0], 0, 2) + 4;
    const width = Math.max(...nodes.map((node) => node.x)) + wide + 4;
    const parts = [];
    for (const node of nodes.slice(1)) {
      const from = nodes[node.parent];
      const [x1, y1, x2, y2] = [from.x + wide, from.y + from.tall / 2, node.x, node.y + node.tall / 2];
      const bend = across / 2;
      parts.push(
        svg("path", { class: `edge ${node.sure}`, d: `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2 - 7} ${y2}` }),
        svg("path", { class: "head", d: `M${x2} ${y2} l-8 -4 l0 8 z` }),
        svg("text", { class: "dim", x: x2 - 10, y: y2 - 6, "text-anchor": "end" },
          shortened(incident.texts[node.reason], 15)),
      );
    }
    for (const node of nodes) {
      const said = node.lines.map((number) => incident.texts[number]).join("\n");
      const shape = svg("g", { class: `node ${node.kind} ${node.sure}`, tabindex: 0, role: "button",
        "aria-pressed": "false", "data-node": node.number, transform: `translate(${node.x + 2} ${node.y})`,
        "aria-label": `${incident.texts[node.title]}${node.sure === "observed" ? "" : `, ${node.sure}`}` },
      svg("title", {}, said),
      svg("rect", { width: wide, height: node.tall, rx: node.kind === "root" ? 2 : 6 }),
      ...node.texts.map(([kind, text], row) => svg("text", { class: kind, x: 8, y: 17 + row * line }, text)));
      const pressed = () => choose(node.number);
      shape.addEventListener("click", pressed);
      shape.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pressed(); }
      });
      parts.push(shape);
    }
    return svg("svg", { width, height, role: "group", "aria-label": "Who cancelled whom" }, ...parts);
  }

  /** The lanes of a time line: what acted, then the tasks, or their groups where those are many. */
  function lanesOf(incident) {
    const lanes = incident.actors.map((actor) => ({ ...actor, who: `${actor.who}: ${actor.did}`, waited: "", asked: null }));
    if (incident.tasks.length <= MOST_LANES) {
      for (const task of incident.tasks) {
        lanes.push({ ...task, waited: incident.texts[incident.nodes[task.group].waited], acted: null });
      }
      return lanes;
    }
    const groups = new Map();
    for (const task of incident.tasks) {
      if (!groups.has(task.group)) groups.set(task.group, []);
      groups.get(task.group).push(task);
    }
    for (const [number, tasks] of groups) {
      const node = incident.nodes[number];
      const ends = known(tasks.map((task) => task.ended));
      const asked = known(tasks.map((task) => task.asked));
      const born = known(tasks.map((task) => task.born));
      lanes.push({ who: incident.texts[node.title], waited: incident.texts[node.waited], acted: null,
        born: born.length ? least(born) : null, asked: asked.length ? least(asked) : null,
        ended: ends.length === tasks.length ? greatest(ends) : null });
    }
    return lanes;
  }

  function drawTimeline(incident) {
    const [names, width, tall] = [250, Math.max(660, panel.clientWidth - 16), 34];
    const lanes = lanesOf(incident);
    const zero = incident.at ?? least([0, ...known(lanes.map((lane) => lane.asked))]);
    const begins = known([zero, ...lanes.map((lane) => lane.asked), ...lanes.map((lane) => lane.acted)]);
    const ends = known([...begins, ...lanes.map((lane) => lane.ended)]);
    const [begin, end] = [least(begins), greatest(ends)];
    const length = Math.max(end - begin, 100);
    // Some tasks have lived for hours: what is looked at is how they ended.
    const left = Math.max(begin - length, Math.min(begin - length / 8, least([begin, ...known(lanes.map((lane) => lane.born))])));
    const right = end + length / 12;
    const at = (micros) => names + ((micros - left) / (right - left)) * (width - names - 8);
    const height = 22 + lanes.length * tall;
    const parts = [0, 0.25, 0.5, 0.75, 1].map((part) => {
      const micros = left + part * (right - left);
      const x = at(micros);
      return svg("g", {}, svg("line", { class: "axis", x1: x, x2: x, y1: 18, y2: height }),
        svg("text", { class: "dim", x, y: 12, "text-anchor": part === 1 ? "end" : part ? "middle" : "start" },
          `${micros >= zero ? "+" : ""}${span(micros - zero)}`));
    });
    parts.push(svg("line", { class: "zero", x1: at(zero), x2: at(zero), y1: 16, y2: height }));
    lanes.forEach((lane, row) => {
      const y = 24 + row * tall;
      const from = lane.born === null || lane.born < left ? left : lane.born;
      const until = lane.ended ?? right;
      const bars = [];
      const bar = (kind, one, other, words) => {
        if (other < one) return;
        bars.push(svg("rect", { class: kind, x: at(one), y: y + 4, width: Math.max(at(other) - at(one), 1.5), height: 10 },
          svg("title", {}, words)));
      };
      const age = lane.born === null ? "" : `, since ${span((lane.asked ?? lane.ended ?? zero) - lane.born)}`;
      if (lane.asked !== null) {
        bar("ran", from, lane.asked, `it ran${age}`);
        bar("ending", lane.asked, until, lane.ended === null
          ? "asked to cancel; its end is not in the log" : `asked to cancel, ended ${span(lane.ended - lane.asked)} later`);
      } else if (lane.born !== null || lane.ended !== null) {
        bar("ran", from, until, `it ran${age}`);
      }
      if (lane.acted !== null) bars.push(svg("circle", { class: "acted", cx: at(lane.acted), cy: y + 9, r: 4 }));
      if (lane.ended !== null) bars.push(svg("line", { class: "born", x1: at(lane.ended), x2: at(lane.ended), y1: y + 1, y2: y + 17 }));
      parts.push(svg("g", {},
        svg("text", { x: 0, y: y + 10 }, shortened(lane.who, 36)),
        svg("text", { class: "dim", x: 0, y: y + 24 }, lane.waited ? shortened(`waited at ${lane.waited}`, 42, true) : ""),
        ...bars));
    });
    return svg("svg", { width, height, role: "img", id: "timeline",
      "aria-label": `Time line of ${several(lanes.length, "lane")}, from the root cause on` }, ...parts);
  }

  function drawFindings(incident) {
    return el("ul", { id: "found" }, ...incident.findings.map((each) => el("li", { class: "found" },
      el("strong", {}, each.kind), " ", each.said, ...each.lines.map((line) => el("div", {}, line)),
      el("div", { class: "dim" }, each.when), el("div", { class: "remedy" }, each.remedy))));
  }

  /** The tasks of the incident; of one group only, or only *some*. */
  function drawTasks(into, incident, only, some) {
    const inside = only === null ? null : below(incident, only);
    const shown = some ?? incident.tasks.filter((task) => inside === null || inside.has(task.group));
    const all = shown.length === incident.tasks.length;
    const unnamed = incident.hit - incident.tasks.length;
    into.replaceChildren(el("h3", {}, all ? several(shown.length, "task")
      : `${shown.length.toLocaleString("en")} of ${several(incident.tasks.length, "task")}`));
    if (!all) into.append(button({ class: "choice" }, () => drawTasks(into, incident, null, null), "show all"));
    if (unnamed) into.append(el("p", { class: "dim" }, `${several(unnamed, "task")} more, not named here`));
    into.append(listed(el("ol"), shown.length, (each) => el("li", {}, drawTask(incident, shown[each]))));
  }

  /** The numbers of *node* and of those below it. */
  function below(incident, node) {
    const inside = new Set([node]);
    incident.nodes.forEach((each, number) => { if (inside.has(each.parent)) inside.add(number); });
    return inside;
  }

  function drawTask(incident, task) {
    const took = task.ended !== null && task.asked !== null ? `, ended ${span(task.ended - task.asked)} after` : "";
    const details = el("details", {}, el("summary", {}, task.who,
      el("span", { class: "what" }, `task ${task.id}, asked ${clock(task.asked)}${took}, ${incident.texts[task.became]}`)));
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      details.append(...[`${task.who}${incident.texts[task.said]}`, ...task.more.map((number) => incident.texts[number])]
        .map((text) => el("div", {}, text)));
    });
    return details;
  }

  // Search

  let turn = 0;

  function isTask(task, incident, query) {
    return task.who.toLowerCase().includes(query) || String(task.id) === query
      || overview.runs[incident.run].toLowerCase().split(",")[0] === `run ${query.split(":")[0]}`
      && query.endsWith(`:${task.id}`);
  }

  /** Look through the data, piece by piece, and show what has *query* in it. */
  function find(query) {
    turn += 1;
    const mine = turn;
    const results = byId("results");
    results.hidden = !query;
    byId("overview").hidden = Boolean(query);
    byId("hits").textContent = query ? "…" : "";
    const list = results.firstElementChild;
    list.replaceChildren();
    if (!query) return;
    const [who, id, group, lines] = [overview.names.task.indexOf("who"), overview.names.task.indexOf("id"),
      overview.names.task.indexOf("group"), overview.names.node.indexOf("lines")];
    const [ofTasks, ofNodes, ofRun] = ["tasks", "nodes", "run"].map((name) => overview.names.incident.indexOf(name));
    const [ofRunId, ofTaskId] = /^[0-9a-f]+:\d+$/.test(query) ? query.split(":") : [null, query];
    let [tasks, incidents, number] = [0, 0, 0];

    const look = () => {
      if (mine !== turn) return;
      const began = performance.now();
      while (number < overview.pieces.length && performance.now() - began < TURN) {
        const { texts, incidents: rows } = piece(number);
        const has = texts.map((text) => text.toLowerCase().includes(query));
        rows.forEach((row, offset) => {
          const here = row[ofNodes].map((node) => node[lines].some((text) => has[text]));
          const run = ofRunId === null || overview.runs[row[ofRun]].startsWith(`run ${ofRunId},`);
          const found = row[ofTasks].filter((task) =>
            task[who].toLowerCase().includes(query) || (run && String(task[id]) === ofTaskId));
          const grouped = found.length ? 0 : row[ofTasks].reduce((sum, task) => sum + here[task[group]], 0);
          if (!found.length && !here.includes(true)) return;
          tasks += found.length || grouped;
          incidents += 1;
          if (incidents <= MOST_RESULTS) list.append(result(overview.pieces[number] + offset, found.map((task) => task[who]), grouped));
        });
        number += 1;
      }
      const over = number >= overview.pieces.length;
      byId("hits").textContent = `${several(tasks, "task")} in ${several(incidents, "incident")}${over ? "" : " …"}`;
      if (!over) {
        setTimeout(look);
        return;
      }
      if (incidents > MOST_RESULTS) list.append(el("li", { class: "dim" }, `the first ${MOST_RESULTS} are shown`));
      for (const each of document.querySelectorAll("#overview .found")) {
        if (each.textContent.toLowerCase().includes(query)) list.append(each.cloneNode(true));
      }
      if (!list.children.length) list.append(el("li", { class: "dim" }, "nothing found"));
      results.dataset.of = query;
    };
    look();
  }

  function result(number, names, grouped) {
    const cause = causeOf(number);
    const shown = names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${(names.length - 3).toLocaleString("en")} more` : "");
    return el("li", {}, button({ "data-incident": number }, () => open(number),
      shown || several(grouped, "task"),
      el("div", { class: "dim" }, `${clock(overview.at[number])} UTC, ${several(overview.hit[number], "task")}: ${overview.causes[cause].text}`)));
  }

  // Keys

  const WALKED = "button, summary, .node";

  function walk(step) {
    const active = document.activeElement;
    const inside = active?.closest("#incident") ? panel : byId("left");
    const stops = [...inside.querySelectorAll(WALKED)].filter((each) => each.getClientRects().length);
    if (!stops.length) return;
    const here = stops.indexOf(active);
    const next = here < 0 ? (step > 0 ? 0 : stops.length - 1) : here + step;
    stops[Math.min(Math.max(next, 0), stops.length - 1)].focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = document.activeElement === search;
    if (event.key === "/" && !typing) {
      search.focus();
      search.select();
    } else if (event.key === "Escape" && typing) {
      search.value = "";
      find("");
      search.blur();
    } else if (event.key === "Escape" && opened !== null) {
      close();
    } else if (event.key === "ArrowDown" || (event.key === "j" && !typing)) {
      walk(1);
    } else if ((event.key === "ArrowUp" && !typing) || (event.key === "k" && !typing)) {
      walk(-1);
    } else {
      return;
    }
    event.preventDefault();
  });

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => find(search.value.trim().toLowerCase()), 120);
  });
  window.addEventListener("hashchange", show);

  if (overview.causes.length) {
    wireCauses();
    drawChart(byId("chart"));
  }
  byId("bar").hidden = false;
  search.value = "";
  show();
  document.documentElement.dataset.ready = "yes";
})();
