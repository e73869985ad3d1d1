// What is broken, what waits because of it, and what it costs: all by `/live.json`, which the demo measures, and by what
// the page itself has received. Nothing here knows what should happen.

const $ = (id) => document.getElementById(id);
const POLL_MS = 250, STALE_MS = 2500, CHART_MS = 90000, RATE_MS = 10000, REMEMBER_MS = 60000;

const setText = (id, text) => { const el = $(id); text = String(text); if (el.textContent !== text) el.textContent = text; };
const count = (n) => Number(n).toLocaleString('en-US');
const seconds = (ms) => Math.max(1, Math.ceil(ms / 1000));
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// The token of the printed address, if it has one.
export const token = new URLSearchParams(location.hash.slice(1)).get('token');

export async function post(path, body) {
  const headers = { 'content-type': 'application/json', ...(token && { 'x-demo-token': token }) };
  const answer = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body), signal: AbortSignal.timeout(5000) });
  if (answer.ok) return answer.json();
  const text = await answer.text();
  let why = text;
  try { why = JSON.parse(text).why ?? text; } catch { /* words, as they are */ }
  throw new Error(why.trim() || `${answer.status}`);
}

// ---- What is measured ------------------------------------------------------------------------------------------

export class Live {
  now = null;          // the last answer
  heardAt = performance.now();
  samples = [];        // {at, waiting, phase}, of the chart
  rates = [];          // {at, api}, of the cost
  ended = false;

  // `seen` tells what the page has received: {gaps, duplicates, known, vehicles, p50}.
  constructor(seen, changed) {
    Object.assign(this, { seen, changed, before: null, target: null, doneAt: null });
    this.poll();
    setInterval(() => this.show(), 200);
  }

  async poll() {
    const at = performance.now();
    try {
      const answer = await fetch('/live.json', { cache: 'no-store', signal: AbortSignal.timeout(3000) });
      if (answer.ok) this.take(await answer.json());
    } catch { /* the age of the last answer is shown */ }
    setTimeout(() => this.poll(), Math.max(20, POLL_MS - (performance.now() - at)));
  }

  take(now) {
    const at = this.heardAt = performance.now();
    const started = this.now?.trouble?.number !== now.trouble?.number;
    this.now = now;
    // A demo that was started again at the same address is no longer over.
    this.ended = now.ending;
    if (started && now.trouble) {
      const { gaps, duplicates } = this.seen();
      Object.assign(this, { before: { gaps, duplicates }, target: null, doneAt: null });
    }
    if (now.trouble?.phase === 'over') {
      this.target ??= now.fleet.published;
      // The page has to have it all, too.
      if (!this.doneAt && this.seen().known >= this.target) this.doneAt = at;
    }
    this.samples.push({ at, waiting: now.broker.waiting, phase: this.phase() });
    while (this.samples[0].at < at - CHART_MS) this.samples.shift();
    this.rates.push({ at, api: now.api, published: now.fleet.published });
    while (this.rates[0].at < at - RATE_MS) this.rates.shift();
    this.changed(now);
    this.show();
  }

  phase() {
    const { now } = this, trouble = now?.trouble;
    if (this.ended) return 'ended';
    if (!now || performance.now() - this.heardAt > STALE_MS) return 'stale';
    if (trouble?.phase === 'broken') return 'outage';
    if (trouble?.phase === 'lost') return now.bridge.ready && now.broker.connected ? 'calm' : 'lost';
    if (trouble && (trouble.phase === 'draining' || !this.doneAt)) return 'draining';
    if (!now.bridge.ready || !now.broker.connected) return 'outage';
    return trouble && performance.now() - this.doneAt < REMEMBER_MS ? 'recovered' : 'calm';
  }

  // A sentence or two: what happens, and what it means.
  story(phase) {
    const { now } = this, { gaps, duplicates, vehicles, p50 } = this.seen();
    if (phase === 'ended') return 'It is over: the demo was ended in its terminal, after what it had taken was delivered. Start it again with `appsync-bridge demo`.';
    if (phase === 'stale') return `Nothing heard from the demo for ${seconds(performance.now() - this.heardAt)} s: what you see is old.`;
    const t = now.trouble, wait = `${plural(now.broker.waiting, 'message')} wait${now.broker.waiting === 1 ? 's' : ''} at the broker`;
    const left = t?.left_ms ? `for ${seconds(t.left_ms)} s more` : 'until a moment from now';
    const refused = t?.refused ? ` (${plural(t.refused, 'refusal')} so far)` : '';
    if (phase === 'outage' && t?.phase === 'broken') switch (t.kind) {
      case 'api': return `The Event API answers 503 to every publish, ${left}${refused}. The bridge holds back and tries again; ${wait}.`;
      case 'throttle': return `The Event API takes 20 events a second and answers 429 to the rest, ${left}${refused}. The bridge slows down; ${wait}.`;
      case 'namespace': return `The Event API refuses the namespace “demo” with 401, ${left}${refused}. The bridge pauses and asks with one event a second; ${wait}.`;
      case 'bridge': return now.bridge.pid && now.bridge.pid !== t.pid
        ? `The bridge was killed (SIGKILL, process ${t.pid}). Process ${now.bridge.pid} takes over its session; ${wait}.`
        : `The bridge was killed (SIGKILL, process ${t.pid}) and is started again in a moment. The broker keeps its session; ${wait}.`;
      case 'line': return `The connection to the broker is cut and new ones are refused, ${left}. The bridge tries to reconnect; ${wait}.`;
    }
    if (phase === 'lost') return `The bridge has not come back within a minute: the terminal says why. ${wait[0].toUpperCase()}${wait.slice(1)}. If it stays so, end the demo and start it again.`;
    if (phase === 'outage') return `The bridge is not ready: ${now.bridge.why.join('; ') || 'it does not say why'}. ${wait[0].toUpperCase()}${wait.slice(1)}.`;
    if (phase === 'draining') return `Mended: the backlog drains. ${count(now.broker.waiting)} of ${count(Math.max(t.peak, now.broker.waiting))} still at the broker; the page waits until it has every number.`;
    if (phase === 'recovered') {
      const lost = gaps - this.before.gaps, twice = duplicates - this.before.duplicates;
      const head = `Over: ${plural(t.peak, 'message')} waited at most and came through within ${(t.drain_ms / 1000).toFixed(1)} s. ${plural(lost, 'gap')}, ${plural(twice, 'duplicate')}`;
      if (lost) return `${head}. That must not be: please report it.`;
      if (!twice) return `${head}.`;
      return `${head}: the Event API had taken ${twice === 1 ? 'it' : 'them'} when ${t.kind === 'bridge' ? 'the process died' : 'the connection was cut'}, and the broker did not know yet. At least once means rather twice than never.`;
    }
    if (!vehicles) return 'Waiting for the first event…';
    const half = p50 === undefined ? '' : ` Half of the events arrive within ${p50 < 9.95 ? p50.toFixed(1) : count(Math.round(p50))} ms.`;
    return gaps || duplicates ? `${plural(gaps, 'gap')} and ${plural(duplicates, 'duplicate')} since this page was opened; nothing waits at the broker.${half}`
      : `All ${vehicles} vans in order, nothing lost, nothing waiting.${half}`;
  }

  show() {
    const phase = this.phase(), { now } = this;
    document.body.dataset.phase = phase === 'lost' ? 'outage' : phase;
    document.body.dataset.trouble = now?.trouble?.phase === 'broken' && phase === 'outage' ? now.trouble.kind : '';
    setText('story', this.story(phase));
    for (const button of document.querySelectorAll('[data-break]')) {
      const running = ['outage', 'draining'].includes(phase);
      button.disabled = running || this.locked || phase === 'ended' || phase === 'stale';
      button.classList.toggle('on', running && now?.trouble?.kind === button.dataset.break);
    }
    if (!now) return;
    setText('waiting-now', count(now.broker.waiting));
    const shown = this.samples.reduce((most, s) => Math.max(most, s.waiting), 0);
    setText('waiting-peak', `most: ${count(shown)}`);
    setText('flow-bridge', now.bridge.pid ? `process ${now.bridge.pid}` : 'no process');
    this.cost();
  }

  // What the last seconds would cost for an hour.
  cost() {
    const a = this.rates[0], b = this.rates.at(-1), time = (b.at - a.at) / 1000;
    if (time < 2) return;
    setText('fleet-rate', `${Math.round((b.published - a.published) / time)}/s`);
    const each = (name) => Math.max(0, b.api[name] - a.api[name]) / time;
    const into = each('units_in'), out = each('units_out'), requests = each('requests');
    const dollars = (into + out) * 3600 / 1e6 * 1.00 + b.api.sockets * 60 / 1e6 * 0.08;
    setText('cost', dollars.toFixed(2));
    setText('batch', requests ? (each('events') / requests).toFixed(1) : '–');
    setText('cost-why', `Measured over ${Math.round(time)} s: ${into.toFixed(0)} units in and ${out.toFixed(0)} out a second, to ${plural(b.api.sockets, 'open page')}. `
      + 'Assumed: that goes on for an hour; a unit of 5 kB, in or to one subscriber, is one operation at USD 1.00 a million, and USD 0.08 a million connection minutes (list prices). Not in it: free tier, data transfer, taxes.');
  }

  draw(canvas, fit, color) {
    const { g, w, h } = fit(canvas), now = performance.now(), s = this.samples;
    g.clearRect(0, 0, w, h);
    if (s.length < 2) return;
    const x = (at) => w - (now - at) / CHART_MS * w, top = Math.max(60, ...s.map((p) => p.waiting)) * 1.12;
    const y = (n) => h - 1.5 - n / top * (h - 4);
    g.fillStyle = color('amber'); g.globalAlpha = 0.13;
    for (let i = 1; i < s.length; i++) if (s[i].phase === 'outage') g.fillRect(x(s[i - 1].at), 0, x(s[i].at) - x(s[i - 1].at) + 0.3, h);
    const line = new Path2D();
    for (const p of s) line.lineTo(x(p.at), y(p.waiting));
    const fill = new Path2D(line);
    fill.lineTo(x(s.at(-1).at), h); fill.lineTo(x(s[0].at), h);
    const high = s.some((p) => p.waiting >= 60);
    g.fillStyle = g.strokeStyle = color(high ? 'amber' : 'moving');
    g.globalAlpha = 0.22; g.fill(fill);
    g.globalAlpha = 1; g.lineWidth = 1.8; g.lineJoin = 'round'; g.stroke(line);
  }
}

// ---- Buttons and messages --------------------------------------------------------------------------------------

export function buttons(live) {
  for (const button of document.querySelectorAll('[data-break]')) button.addEventListener('click', async () => {
    button.disabled = true;
    try { live.take(await post('/break', { what: button.dataset.break })); } catch (e) { setText('story', `Not broken: ${e.message}`); }
  });
  for (const sample of document.querySelectorAll('[data-payload]')) sample.addEventListener('click', () => {
    $('send-topic').value = sample.dataset.topic;
    $('send-payload').value = sample.dataset.payload;
  });
  const send = async () => {
    const error = $('send-error');
    error.hidden = true;
    try { await post('/send', { topic: `demo/${$('send-topic').value}`, payload: $('send-payload').value }); } catch (e) { error.textContent = e.message; error.hidden = false; }
  };
  $('send').addEventListener('submit', (e) => { e.preventDefault(); send(); });
  // No form is sent by a browser here (its policy), and Ctrl-Enter is what people try.
  $('send-payload').addEventListener('keydown', (e) => { if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { e.preventDefault(); send(); } });
}

const same = (a, b) => {
  if (a === b) return true;
  try { return JSON.stringify(JSON.parse(a)) === JSON.stringify(JSON.parse(b)); } catch { return false; }
};
const said = (text) => {
  let event = null;
  try { event = JSON.parse(text); } catch { return ''; }
  const words = typeof event === 'string' ? event : event && (event.text ?? event.message);
  return typeof words === 'string' && words.trim() ? words.slice(0, 300) : '';
};

// What people said: each as the broker was given it, and where it came out. What came to this page by the Event API
// alone, from another client of it, is there as well.
export class Messages {
  entries = new Map();
  here = [];            // what came over the WebSocket and is not matched yet: {text, at}

  constructor(announce) { this.announce = announce; }

  arrived(text) {
    this.here.push({ text, at: Date.now() });
    this.announce(said(text) || text);
  }

  update(messages) {
    for (const m of messages.slice().reverse()) {
      const entry = this.entry(`m${m.number}`, m.at, m.topic, m.payload);
      if (m.fate === 'arrived' && !entry.here) {
        const i = this.here.findIndex((h) => same(h.text, m.payload));
        if (i >= 0) { this.here.splice(i, 1); entry.here = true; }
      }
      const state = m.fate === 'rejected' ? 'rejected' : m.fate === 'arrived' ? 'arrived' : 'underway';
      if (entry.li.className !== state) entry.li.className = state;
      entry.to.textContent = m.fate === 'arrived' ? m.channel : m.fate === 'rejected' ? 'rejected' : 'at the broker';
      entry.why.textContent = m.fate === 'rejected' ? m.reason : '';
      entry.why.hidden = m.fate !== 'rejected';
    }
    const old = Date.now() - 1500;
    for (const h of this.here.filter((it) => it.at < old)) {
      const entry = this.entry(`h${h.at}-${h.text.length}`, h.at, 'another client', h.text);
      entry.li.className = 'arrived';
      entry.to.textContent = 'Event API';
    }
    this.here = this.here.filter((it) => it.at >= old);
  }

  entry(key, at, from, text) {
    const known = this.entries.get(key);
    if (known) return known;
    const make = (name, content = '') => { const el = document.createElement(name); el.textContent = content; return el; };
    const li = make('li'), way = make('p'), to = make('b'), why = make('p');
    const time = make('time', new Date(at).toLocaleTimeString([], { hour12: false }));
    way.className = 'way'; why.className = 'why'; why.hidden = true;
    way.append(make('span', from), ' → ', to);
    li.append(time, way);
    const words = said(text);
    if (words) li.append(make('strong', words));
    li.append(make('code', text), why);
    $('no-messages').hidden = true;
    $('messages').prepend(li);
    while ($('messages').children.length > 50) $('messages').lastChild.remove();
    const entry = { li, to, why, here: false };
    this.entries.set(key, entry);
    return entry;
  }
}
