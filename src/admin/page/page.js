// The status page: asks /status and shows it. Whatever comes from there is set as text, never as markup.

const EVERY = 2000;      // ms from an answer to the next question
const PATIENCE = 8000;   // ms for an answer
const MOST_ROUTES = 200; // rows; a page is for people

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

// ---- Words -----------------------------------------------------------------------------------------------------

const number = (n) => (n < 1e7 ? n.toLocaleString('en') : n.toLocaleString('en', { notation: 'compact', maximumFractionDigits: 1 }));
const rate = (n) => (n === 0 ? '0' : n < 10 ? n.toFixed(1) : number(Math.round(n)));
const clock = (at) => new Date(at).toLocaleTimeString('en-GB');
const when = (at, now) => (new Date(at).toDateString() === new Date(now).toDateString() ? clock(at) : `${new Date(at).toISOString().slice(0, 10)} ${clock(at)}`);
const took = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : s < 60 ? `${s} s` : lasting(s * 1000));
const money = (n) => n.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const sum = (values) => values.reduce((all, n) => all + n, 0);
const total = (counts) => sum(Object.values(counts));
const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
const STATES = { ready: 'Ready', not_ready: 'Not ready', stopped: 'Stopped', draining: 'Draining' };

function lasting(ms) {
  const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

// ---- Elements --------------------------------------------------------------------------------------------------

function make(tag, name = '', ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

// What is the same is left alone: a reader of the screen, or a selection, should not be disturbed.
const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const mark = (element, name) => { if (element.className !== name) element.className = name; };

// Shows a list, keeping the element of what was there before.
function list(parent, items, key, build) {
  const known = (parent.known ??= new Map()), left = new Set(known.keys());
  items.forEach((item, at) => {
    const k = key(item);
    left.delete(k);
    if (!known.has(k)) known.set(k, build(item));
    const { element, update } = known.get(k);
    update?.(item);
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  });
  for (const k of left) { known.get(k).element.remove(); known.delete(k); }
}

const chips = (parent, counts) => list(parent, Object.entries(counts), ([name]) => name, ([name]) => {
  const count = make('b');
  return { element: make('li', '', name.replaceAll('_', ' '), count), update: ([, n]) => say(count, number(n)) };
});

const labelled = (label) => {
  const all = make('ul', 'chips');
  const element = make('div', 'labelled', make('span', '', label), all);
  return { element, update(counts) { element.hidden = !Object.keys(counts).length; chips(all, counts); } };
};

// When a part's credentials end, if that is known.
const ending = ({ credentials_end: end }, { now }) => (end ? [['Credentials end in', lasting(Date.parse(end) - Date.parse(now))]] : []);

// Numbers with their names. `fields` gives [name, text, class] each.
const figures = (parent, fields) => list(parent, fields, ([name]) => name, ([name]) => {
  const value = make('dd');
  return { element: make('div', '', make('dt', '', name), value), update: ([, text, look = '']) => { say(value, text); mark(value, look); } };
});

// ---- Curves ----------------------------------------------------------------------------------------------------

const STEPS = 180, HEIGHT = 36;

function curve(what) {
  const element = document.createElementNS(SVG, 'svg'), [base, area, line] = ['line', 'path', 'path'].map((tag) => document.createElementNS(SVG, tag));
  element.setAttribute('viewBox', `0 0 ${STEPS - 1} ${HEIGHT}`);
  element.setAttribute('preserveAspectRatio', 'none');
  element.setAttribute('role', 'img');
  element.setAttribute('class', 'spark');
  area.setAttribute('class', 'area');
  for (const [name, value] of [['x1', 0], ['x2', STEPS - 1], ['y1', HEIGHT], ['y2', HEIGHT]]) base.setAttribute(name, value);
  element.append(base, area, line);
  return {
    element,
    update(values) {
      const most = Math.max(...values, 0), scale = most || 1, first = STEPS - values.length;
      const points = values.map((v, at) => `${first + at} ${(HEIGHT - (v / scale) * (HEIGHT - 3)).toFixed(1)}`);
      const path = points.length > 1 ? `M${points.join('L')}` : '';
      line.setAttribute('d', path);
      area.setAttribute('d', path && `${path}L${STEPS - 1} ${HEIGHT}L${first} ${HEIGHT}Z`);
      element.setAttribute('aria-label', `${what} in the last 15 minutes: at most ${rate(most)}, now ${rate(values.at(-1) ?? 0)}`);
    },
  };
}

// Several curves as one.
const together = (curves) => (curves[0] ?? []).map((_, at) => sum(curves.map((values) => values[at] ?? 0)));

// ---- Parts -----------------------------------------------------------------------------------------------------

const TILES = [
  ['Received', 'a second', (s) => [rate(sum(s.sources.map((x) => x.received_per_second))), together(s.history.sources.map((x) => x.received_per_second))]],
  ['Accepted by APIs', 'a second', (s) => [rate(sum(s.apis.map((x) => x.accepted_per_second))), together(s.history.apis.map((x) => x.accepted_per_second))]],
  ['In flight', 'messages', (s) => [number(sum(s.sources.map((x) => x.in_flight))), together(s.history.sources.map((x) => x.in_flight))]],
  ['Dead letters', 'since the start', (s) => [number(sum(s.dead_letters.map((x) => total(x.written)))), s.history.dead_letters]],
];

function tile([title, unit, read]) {
  const value = make('span'), spark = curve(title), axis = make('p', 'axis', make('span', '', '15 min ago'), make('span', '', 'now'));
  axis.setAttribute('aria-hidden', 'true');
  const element = make('article', 'tile', make('h2', '', title), make('p', 'big', value, make('small', '', unit)), spark.element, axis);
  return { element, update({ status }) { const [text, values] = read(status); say(value, text); spark.update(values); } };
}

const identity = (kind, name) => `${kind}-${encodeURIComponent(name)}`;

// What a part is and how it does; the rest is put behind.
function card(kind, part, badge, unit) {
  const dot = make('i', 'dot'), below = make('p', 'mono'), state = make('p', 'sub'), speed = make('span');
  dot.setAttribute('aria-hidden', 'true');
  const title = make('h3', '', part.name);
  if (badge) title.append(make('span', '', badge));
  const head = make('header', '', dot, make('div', 'who', title, below, state));
  if (unit) head.append(make('p', 'rate', speed, make('small', '', unit)));
  const why = make('div', 'why');
  const element = make('article', '', head, why);
  element.id = identity(kind, part.name);
  return {
    element, below, why,
    update(part, now, rateNow) {
      mark(element, `card ${part.state}`);
      const since = part.since ? ` for ${lasting(Date.parse(now) - Date.parse(part.since))}` : '';
      say(state, `${STATES[part.state] ?? part.state}${since}`);
      why.hidden = !part.why;
      say(why, part.why ?? '');
      if (unit) say(speed, rate(rateNow));
    },
  };
}

function source(part) {
  const base = card('source', part, part.type, 'received a second'), spark = curve(`${part.name}: received a second`);
  const fill = make('i'), meter = make('div', 'meter', fill), inFlight = make('p', 'sub'), numbers = make('dl'), ends = labelled('Ended as');
  const takes = part.takes.slice(0, 6).join(', ') + (part.takes.length > 6 ? ` and ${part.takes.length - 6} more` : '');
  say(base.below, takes);
  base.element.append(spark.element, meter, inFlight, numbers, ends.element);
  meter.setAttribute('aria-hidden', 'true');
  return {
    element: base.element,
    update({ part, status, history }) {
      base.update(part, status.now, part.received_per_second);
      spark.update(history.received_per_second);
      const full = Math.min(1, Math.max(part.in_flight / part.max_in_flight, part.in_flight_bytes / part.max_in_flight_bytes));
      fill.style.transform = `scaleX(${full.toFixed(4)})`;
      mark(meter, full >= 0.95 ? 'meter full' : 'meter');
      say(inFlight, `${number(part.in_flight)} of ${number(part.max_in_flight)} in flight`);
      const released = part.settled.released ?? 0;
      figures(numbers, [
        ['Connected', part.connected ? 'yes' : 'no', part.connected ? '' : 'fail'],
        ['Received', number(part.received)],
        ...(part.delivery_p50_seconds === null ? [] : [['Delay, median', took(part.delivery_p50_seconds)], ['Delay, 99 %', took(part.delivery_p99_seconds)]]),
        ...ending(part, status),
        ...(part.lag === null ? [] : [['Lag', number(part.lag)]]),
        ['Dropped', number(part.dropped), part.dropped ? 'fail' : ''],
        ['Released', number(released), released ? 'warn' : ''],
        ['Reconnects', number(part.reconnects), part.reconnects ? 'warn' : ''],
      ]);
      ends.update(part.settled);
    },
  };
}

function pause() {
  const since = make('b'), words = make('span'), hint = make('em');
  return {
    element: make('div', 'why', since, words, hint),
    update({ pause: { scope, why, hint: remedy, since: at }, now }) {
      say(since, `${scope[0].toUpperCase()}${scope.slice(1)} refuses the bridge for ${lasting(Date.parse(now) - Date.parse(at))}; its events are kept`);
      say(words, why);
      say(hint, remedy);
    },
  };
}

function api(part) {
  const base = card('api', part, '', 'events a second'), spark = curve(`${part.name}: events accepted a second`);
  const pauses = make('div'), numbers = make('dl'), requests = labelled('Requests'), retries = labelled('Retries');
  say(base.below, part.host);
  base.why.after(pauses);
  base.element.append(spark.element, numbers, requests.element, retries.element);
  return {
    element: base.element,
    update({ part, status, history }) {
      // A pause says the same, and what to do.
      base.update(part.pauses.length ? { ...part, why: null } : part, status.now, part.accepted_per_second);
      list(pauses, part.pauses.map((each) => ({ pause: each, now: status.now })), (each) => each.pause.scope, pause);
      spark.update(history.accepted_per_second);
      figures(numbers, [
        ['Accepted', number(part.accepted)],
        ['Rejected', number(part.rejected), part.rejected ? 'fail' : ''],
        ...(part.unconfirmed ? [['Unconfirmed', number(part.unconfirmed), 'warn']] : []),
        ...(part.expired ? [['Expired', number(part.expired), 'warn']] : []),
        ...(part.ambiguous ? [['Ambiguous', number(part.ambiguous), 'warn']] : []),
        ...ending(part, status),
        ['Metered units', number(part.metered_units)],
        ['Estimated cost', `${money(part.estimated_cost.amount)} ${part.estimated_cost.currency}`],
        ['Requests at once', `${number(part.concurrency_limit)} of ${number(part.max_concurrency)}`, part.concurrency_limit <= 1 ? 'warn' : ''],
        ['Rate gate', `${number(part.rate_limit)} /s`, part.rate_limit < part.max_rate ? 'warn' : ''],
        ['Breaker', part.breaker_open ? 'open' : 'closed', part.breaker_open ? 'fail' : ''],
      ]);
      requests.update(part.requests);
      retries.update(part.retries);
    },
  };
}

function route(part) {
  const cell = (name, ...children) => { const td = make('td', name, ...children); td.setAttribute('role', 'cell'); return td; };
  const matched = cell('n'), speed = cell('n'), count = make('span'), reasons = make('ul', 'chips');
  const way = cell('mono', `${part.topic ?? 'every topic'} → ${part.channels.join(', ')}`);
  const ends = make('small', '', `${part.from.join(', ')} → ${part.api}`);
  const element = make('tr', '', cell('', part.name, ends), way, matched, speed, cell('', count, reasons));
  element.setAttribute('role', 'row');
  return {
    element,
    update(part) {
      say(matched, number(part.matched));
      say(speed, rate(part.matched_per_second));
      const rejected = total(part.rejected);
      say(count, number(rejected));
      mark(count, rejected ? 'fail' : 'sub');
      chips(reasons, part.rejected);
    },
  };
}

function deadLetter(part) {
  const base = card('dead_letter', part, part.type, 'written since the start'), reasons = labelled('By reason');
  const count = base.element.querySelector('.rate span');
  say(base.below, part.place);
  base.element.append(reasons.element);
  return {
    element: base.element,
    update({ part, status }) {
      base.update(part, status.now, 0);
      say(count, number(total(part.written)));
      reasons.update(part.written);
    },
  };
}

function logLine() {
  const at = make('time'), level = make('b'), times = make('span'), message = make('p'), fields = make('p', 'mono');
  const element = make('li', '', make('div', 'head', level, at, times), message, fields);
  return {
    element,
    update({ line, now }) {
      mark(element, `is-${line.level.toLowerCase()}`);
      say(at, when(line.at, now));
      say(level, line.level);
      say(times, line.count > 1 ? `${number(line.count)} times` : '');
      say(message, line.message);
      list(fields, line.fields, ([name]) => name, ([name]) => {
        const value = make('b');
        return { element: make('span', '', `${name} `, value), update: ([, text]) => say(value, text) };
      });
    },
  };
}

// ---- The whole -------------------------------------------------------------------------------------------------

const ROOMS = { source: 'sources', api: 'apis', dead_letter: 'dead_letters' };

// The parts that need somebody, each a link to its words.
function problems(status) {
  const box = $('problems'), found = status.not_ready.filter(({ why }) => why !== 'draining');
  const stuck = status.stuck.map((part) => ({ part, why: 'gives no sign of life' }));
  const all = [...found, ...stuck];
  const text = JSON.stringify(all.map(({ part }) => part));
  box.hidden = !all.length;
  if (box.said === text) return;
  box.said = text;
  const links = all.flatMap(({ part, why }, at) => {
    const [kind, ...rest] = part.split(' '), name = rest.join(' ');
    const has = status[ROOMS[kind]]?.some((each) => each.name === name);
    const link = make(has ? 'a' : 'span', '', has ? part.replace('_', ' ') : `${part} (${why})`);
    if (has) link.href = `#${identity(kind, name)}`;
    return at ? [', ', link] : [link];
  });
  box.replaceChildren(make('b', '', `${plural(all.length, 'part needs', 'parts need')} attention: `), ...links);
}

function show(status) {
  const parts = (name, past) => status[name].map((part, at) => ({ part, status, history: status.history[past]?.[at] }));
  const name = ({ part }) => part.name;
  list($('tiles'), TILES.map((each) => ({ each, status })), ({ each }) => each[0], ({ each }) => tile(each));
  list($('sources'), parts('sources', 'sources'), name, ({ part }) => source(part));
  list($('apis'), parts('apis', 'apis'), name, ({ part }) => api(part));
  list($('dead'), parts('dead_letters'), name, ({ part }) => deadLetter(part));
  list($('routes'), status.routes.slice(0, MOST_ROUTES), (part) => part.name, route);
  const more = status.routes.length - MOST_ROUTES;
  $('more').hidden = more <= 0;
  say($('more'), `${plural(more, 'more route is', 'more routes are')} in /status.`);
  list($('log'), status.log.map((line, at) => ({ line, now: status.now, at })), ({ at }) => at, logLine);
  $('log').hidden = !status.log.length;
  $('no-log').hidden = status.log.length > 0;
  problems(status);
  say($('facts'), `version ${status.version}, up ${lasting(status.uptime_seconds * 1000)}`);
  $('facts').title = `since ${status.started}`;
  $('main').hidden = false;
}

function become(state, words) {
  if (document.body.dataset.state !== state) document.body.dataset.state = state;
  say($('state'), words);
  document.title = `${words} · appsync-bridge`;
}

let heard = 0, last = '', timer = 0, shownAt = '';

async function ask() {
  clearTimeout(timer);
  try {
    const answer = await fetch('/status', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`it answers with status ${answer.status}`);
    const status = await answer.json();
    // Another process: other parts, maybe, and counts from zero.
    if (shownAt && shownAt !== status.started) return location.reload();
    shownAt = status.started;
    show(status);
    [heard, last] = [Date.now(), status.state];
    become(status.state, STATES[status.state] ?? status.state);
    $('stale').hidden = true;
  } catch (error) {
    stale(error);
  }
  if (!document.hidden) timer = setTimeout(ask, EVERY);
}

function stale(error) {
  // Words that stay as they are: a reader of the screen says them again when they change.
  const since = heard ? `since ${clock(heard)}` : 'so far';
  const why = error.name === 'TypeError' ? '' : error.name === 'TimeoutError' ? ' It takes too long.' : ` (${error.message})`;
  const ended = last === 'draining' ? 'It was draining, so it has probably stopped.' : 'It has stopped, or can’t be reached.';
  become('stale', `No answer ${since}`);
  say($('stale'), `The bridge gives no answer ${since}.${why} ${ended}${heard ? ' What is shown is what it said last.' : ''}`);
  $('stale').hidden = false;
}

// A page that nobody sees asks nothing.
document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : ask()));
ask();
