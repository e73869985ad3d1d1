// The demo's page: a client of the public AppSync Events WebSocket protocol and a view of what it receives.
// Four parts: the socket client, the model, the map, the panels. What is broken is in `trouble.js`.

import { Live, Messages, buttons, token } from './trouble.js';

const $ = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const calm = matchMedia('(prefers-reduced-motion: reduce)');
const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Date.now() has whole milliseconds, too coarse for a local round; the finer clock drifts when the computer sleeps.
const wallClock = () => {
  const fine = performance.timeOrigin + performance.now(), coarse = Date.now();
  return Math.abs(fine - coarse) <= 2 ? fine : coarse;
};

// ---- Socket client ---------------------------------------------------------------------------------------------

const base64url = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)))
  .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
const describe = (errors) => (Array.isArray(errors) && errors.length ? errors : [{ errorType: 'Unknown error' }])
  .map((e) => [e?.errorType, e?.message].filter(Boolean).join(': ')).join('; ').replace(/\.?$/, '.');

class EventSocket {
  static HANDSHAKE_MS = 15000;  // from opening to subscribe_success
  static STABLE_MS = 10000;     // a connection that lived this long makes the backoff start anew

  constructor(handlers) {
    this.on = handlers;
    this.attempts = 0;
    this.reconnects = 0;
    this.current = null;        // the session in charge; whatever an older one still says is ignored
  }

  async connect() {
    clearTimeout(this.retryTimer);
    this.close();
    const session = this.current = { ws: null, timer: 0, liveAt: 0, timeout: EventSocket.HANDSHAKE_MS };
    if (this.state !== 'error') this.setState(this.attempts || this.reconnects ? 'reconnecting' : 'connecting');
    let facts;
    // Fetched for each attempt: a demo started again may have another port and another key.
    try { facts = await this.on.facts(); } catch { return this.drop(session, 'The demo does not answer.'); }
    if (session !== this.current) return;
    this.auth = { host: new URL(facts.endpoint).host, 'x-api-key': facts.api_key };
    const protocols = ['aws-appsync-event-ws', `header-${base64url(JSON.stringify(this.auth))}`];
    const realtime = new URL(facts.realtime);
    // A phone reaches it by the name that it reached this page by.
    if (facts.locked) realtime.hostname = location.hostname;
    try { session.ws = new WebSocket(realtime, protocols); } catch (e) { return this.drop(session, e.message); }
    this.on.frame('note', `connect ${facts.realtime}, subprotocols aws-appsync-event-ws and header-…`);
    this.watch(session, 'The Event API did not accept the connection in time.');
    session.ws.onopen = () => this.send(session, { type: 'connection_init' });
    session.ws.onmessage = ({ data }) => this.receive(session, data, facts);
    session.ws.onclose = (e) => this.drop(session, `Connection closed (${e.code}${e.reason ? `, ${e.reason}` : ''}).`);
  }

  receive(session, text, facts) {
    if (session !== this.current) return;
    let frame;
    try { frame = JSON.parse(text); } catch { return this.on.notice('A frame was not JSON.'); }
    this.on.frame('in', text, frame.type === 'data');
    session.lastFrame = performance.now();
    switch (frame.type) {
      case 'connection_ack':
        if (frame.connectionTimeoutMs > 0) session.timeout = frame.connectionTimeoutMs;
        session.id = `page-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;
        return this.send(session, { type: 'subscribe', id: session.id, channel: facts.channel, authorization: this.auth });
      case 'subscribe_success':
        if (frame.id !== session.id) return;
        session.liveAt = performance.now();
        this.watch(session, 'Nothing heard for the whole connection timeout.');
        this.setState('live');
        return this.on.notice('');
      case 'data':
        if (frame.id === session.id) this.on.event(frame.event);
        return;
      case 'connection_error': return this.drop(session, `Connection refused: ${describe(frame.errors)}`, true);
      case 'subscribe_error': return this.drop(session, `Subscription refused: ${describe(frame.errors)}`, true);
      case 'broadcast_error': case 'error': return this.on.notice(`The Event API reports: ${describe(frame.errors)}`);
    }
  }

  // A timer moved by each frame would be set anew hundreds of times a second; this one looks when it is due.
  watch(session, reason) {
    clearTimeout(session.timer);
    session.lastFrame = performance.now();
    const look = () => {
      const limit = session.liveAt ? session.timeout : EventSocket.HANDSHAKE_MS;
      const left = session.lastFrame + limit - performance.now();
      if (left <= 0) this.drop(session, reason); else session.timer = setTimeout(look, left);
    };
    look();
  }

  send(session, frame) {
    const text = JSON.stringify(frame);
    session.ws.send(text);
    // The panel may be on somebody's screenshot: the key stays out of it.
    this.on.frame('out', text.replace(/("x-api-key":".{6})[^"]*/g, '$1…'));
  }

  drop(session, reason, refused = false) {
    if (session !== this.current) return;
    if (session.liveAt && performance.now() - session.liveAt > EventSocket.STABLE_MS) this.attempts = 0;
    if (session.liveAt) this.reconnects++;
    this.close();
    // Full jitter, so that many pages do not come back in step; a refusal is seldom healed by haste.
    const ceiling = Math.min(10000, (refused ? 4000 : 500) * 2 ** Math.min(this.attempts++, 6));
    const delay = ceiling * (0.5 + Math.random() / 2);
    if (refused || this.state !== 'error') this.setState(refused ? 'error' : 'reconnecting');
    this.on.frame('note', reason);
    this.on.notice(`${reason} Trying again in ${Math.max(1, Math.round(delay / 1000))} s.`, true);
    this.retryTimer = setTimeout(() => this.connect(), delay);
  }

  close() {
    const session = this.current;
    this.current = null;
    if (!session) return;
    clearTimeout(session.timer);
    if (session.ws) { session.ws.onopen = session.ws.onmessage = session.ws.onclose = null; session.ws.close(1000); }
  }

  setState(state) {
    this.state = state;
    this.on.state(state);
  }
}

// ---- Model -----------------------------------------------------------------------------------------------------

const hook = window.appsyncDemo = { received: 0, firstSeq: {}, lastSeq: {}, firstEventAt: null };

class Model {
  static RING = 4096;
  vehicles = new Map();
  gaps = 0; duplicates = 0; offline = 0;
  epoch = 0;                                   // which connection an event came over
  arrivals = new Float64Array(Model.RING); latencies = new Float64Array(Model.RING); written = 0;
  seconds = new Uint32Array(64); second = 0;   // events by second, for the sparkline
  delay = 100;                                 // latency the map has to bridge: mean plus twice the deviation
  mean = 20; deviation = 10;
  newMessages = [];

  event(text) {
    let event = null;
    try { event = JSON.parse(text); } catch { /* shown as it is */ }
    const position = event && event.kind === 'position' && typeof event.id === 'string'
      && Number.isInteger(event.seq) && Number.isFinite(event.x) && Number.isFinite(event.y);
    if (position) return this.position(event);
    this.newMessages.push(String(text));
    if (this.newMessages.length > 50) this.newMessages.shift();
  }

  position(event) {
    const now = performance.now(), latency = Math.max(0, wallClock() - event.sent_at);
    hook.firstEventAt ??= now;
    hook.received++;
    const slot = this.written++ % Model.RING;
    this.arrivals[slot] = now;
    this.latencies[slot] = latency;
    this.roll(now);
    this.seconds[this.second % 64]++;
    this.mean += (latency - this.mean) * 0.02;
    this.deviation += (Math.abs(latency - this.mean) - this.deviation) * 0.02;
    this.delay = this.mean + 2 * this.deviation;

    let v = this.vehicles.get(event.id);
    if (!v) {
      v = { id: event.id, samples: [], interval: 400, missing: new Set(), last: null, trail: [], heading: event.heading || 0, lane: 0, slot: 0 };
      this.vehicles.set(event.id, v);
      hook.firstSeq[event.id] = event.seq;
    }
    v.heardAt = now;
    if (!this.sequence(v, event)) return;
    const before = v.samples.at(-1);
    if (before) v.interval += (clamp(event.sent_at - before.sent_at, 20, 3000) - v.interval) * 0.15;
    v.samples.push(event);
    if (v.samples.length > 40) v.samples.splice(0, 20);
  }

  // Returns whether the event is news for the map.
  sequence(v, event) {
    const last = v.last;
    const next = () => { v.last = { seq: event.seq, sent: event.sent_at, epoch: this.epoch }; hook.lastSeq[v.id] = event.seq; return true; };
    if (!last || event.seq === last.seq + 1) return next();
    if (event.seq > last.seq) {
      const lost = event.seq - last.seq - 1;
      // AppSync Events keeps nothing for a subscriber who is away: that is no fault of the relay's.
      if (last.epoch !== this.epoch) { this.offline += lost; return next(); }
      this.gaps += lost;
      for (let s = event.seq - Math.min(lost, 500); s < event.seq; s++) v.missing.add(s);
      if (v.missing.size > 2000) v.missing.clear();
      return next();
    }
    // A lower number sent later: the fleet was started anew and counts from the beginning.
    if (event.sent_at > last.sent) { v.missing.clear(); v.samples.length = 0; hook.firstSeq[v.id] = event.seq; return next(); }
    if (v.missing.delete(event.seq)) this.gaps--; else this.duplicates++;
    return false;
  }

  roll(now) {
    const second = Math.floor(now / 1000);
    for (let s = Math.max(this.second + 1, second - 63); s <= second; s++) this.seconds[s % 64] = 0;
    this.second = Math.max(this.second, second);
  }

  // The newest entries no older than `ms`, as latencies; unsorted.
  recent(ms, now = performance.now()) {
    const out = [];
    for (let i = this.written - 1; i >= 0 && i >= this.written - Model.RING; i--) {
      if (this.arrivals[i % Model.RING] < now - ms) break;
      out.push(this.latencies[i % Model.RING]);
    }
    return out;
  }

  rate(now = performance.now()) {
    if (hook.firstEventAt === null) return 0;
    return this.recent(2000, now).length / clamp((now - hook.firstEventAt) / 1000, 0.5, 2);
  }
}

// ---- Map -------------------------------------------------------------------------------------------------------

const BLOCK = 1 / 12;
const HUBS = [[2, 3], [10, 2], [6, 6], [3, 10], [10, 9]];  // decoration; the fleet charges there
const STATES = ['moving', 'delivering', 'charging'];
const TRAIL_MS = 7000, BUCKETS = 7;

// Sharp canvases: the backing store follows the element's size and the screen's density.
function fit(canvas) {
  const ratio = Math.min(devicePixelRatio || 1, 2), w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  const g = canvas.getContext('2d');
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { g, w, h, ratio };
}

class FleetMap {
  constructor(canvas, model) {
    Object.assign(this, { canvas, model, pointer: null, hovered: null, ripples: [] });
    new ResizeObserver(() => this.layout()).observe(canvas);
    matchMedia('(prefers-color-scheme: light)').addEventListener('change', () => this.layout());
    canvas.addEventListener('pointermove', (e) => { this.pointer = { x: e.offsetX, y: e.offsetY }; });
    canvas.addEventListener('pointerdown', (e) => { this.pointer = { x: e.offsetX, y: e.offsetY }; });
    canvas.addEventListener('pointerleave', (e) => { if (e.pointerType === 'mouse') this.pointer = null; });
    this.layout();
  }

  layout() {
    this.colors = Object.fromEntries(['land', 'block', 'block-2', 'park', 'river', 'river-edge', 'street', 'avenue', 'van-ink', 'message', ...STATES].map((n) => [n, cssColor(n)]));
    const { w, h, ratio } = fit(this.canvas);
    if (!w || !h) return;
    const bottom = 68;  // the legend's strip
    this.box = { w, h, ratio, left: w * 0.035, top: h * 0.045, width: w * 0.93, height: h * 0.955 - bottom };
    this.scale = clamp(Math.min(w, h) / 560, 0.72, 1.15);
    for (const v of this.model.vehicles.values()) v.trail.length = 0;
    this.drawCity();
    this.sprites = Object.fromEntries(STATES.map((s) => [s, this.drawVan(s)]));
  }

  at(x, y) { return [this.box.left + x * this.box.width, this.box.top + y * this.box.height]; }

  // The city never changes: drawn once per size and theme.
  drawCity() {
    const { w, h, ratio } = this.box, k = this.scale;
    const city = this.city = new OffscreenCanvas(Math.round(w * ratio), Math.round(h * ratio));
    const g = city.getContext('2d');
    g.scale(ratio, ratio);
    let seed = 20240;
    const random = () => { seed = (seed * 1664525 + 1013904223) >>> 0; return seed / 2 ** 32; };
    g.fillStyle = this.colors.land;
    g.fillRect(0, 0, w, h);
    const half = 4.5 * k, parks = new Set(['1,8', '2,8', '1,9', '8,3', '9,3', '8,4', '5,10', '4,1', '10,6']);
    for (let i = -1; i <= 13; i++) for (let j = -1; j <= 13; j++) {
      const [x0, y0] = this.at(i * BLOCK, j * BLOCK), [x1, y1] = this.at((i + 1) * BLOCK, (j + 1) * BLOCK);
      const bw = x1 - x0 - 2 * half, bh = y1 - y0 - 2 * half;
      if (parks.has(`${i},${j}`)) { this.rect(g, x0 + half, y0 + half, bw, bh, 5, 'park'); continue; }
      // Lots: each block cut once or twice, so that it reads as buildings.
      const cutX = 0.3 + random() * 0.4, cutY = 0.3 + random() * 0.4, gap = 2;
      for (const [fx, fw] of [[0, cutX], [cutX, 1 - cutX]]) for (const [fy, fh] of random() < 0.35 ? [[0, 1]] : [[0, cutY], [cutY, 1 - cutY]])
        this.rect(g, x0 + half + fx * bw + gap / 2, y0 + half + fy * bh + gap / 2, fw * bw - gap, fh * bh - gap, 2.5, random() < 0.45 ? 'block-2' : 'block');
    }
    const p = (x, y) => this.at(x, y);
    for (const [name, width] of [['river-edge', 0.072], ['river', 0.064]]) {
      g.beginPath();
      g.moveTo(...p(-0.1, 0.70));
      g.bezierCurveTo(...p(0.22, 0.78), ...p(0.30, 0.46), ...p(0.53, 0.46));
      g.bezierCurveTo(...p(0.76, 0.46), ...p(0.72, 0.12), ...p(1.1, 0.10));
      g.strokeStyle = this.colors[name];
      g.lineWidth = width * Math.min(this.box.width, this.box.height);
      g.stroke();
    }
    for (let i = 0; i <= 12; i++) {  // streets last: where they meet the river they are its bridges
      const avenue = i % 3 === 0, [x] = p(i * BLOCK, 0), [, y] = p(0, i * BLOCK);
      g.fillStyle = this.colors[avenue ? 'avenue' : 'street'];
      const t = (avenue ? 8 : 6) * k;
      g.fillRect(x - t / 2, 0, t, h);
      g.fillRect(0, y - t / 2, w, t);
    }
    for (const [i, j] of HUBS) {
      const [x, y] = p(i * BLOCK, j * BLOCK), r = 12 * k;
      this.rect(g, x - r, y - r, 2 * r, 2 * r, 6 * k, 'land');
      g.strokeStyle = this.colors.charging; g.lineWidth = 1.5; g.globalAlpha = 0.8; g.stroke();
      g.fillStyle = this.colors.charging;
      g.beginPath();
      [[1.5, -7], [-4.5, 1.5], [-0.6, 1.5], [-1.5, 7], [4.5, -1.5], [0.6, -1.5]].forEach(([a, b]) => g.lineTo(x + a * k * 0.9, y + b * k * 0.9));
      g.fill(); g.globalAlpha = 1;
    }
  }

  rect(g, x, y, w, h, r, name) {
    g.beginPath(); g.roundRect(x, y, Math.max(1, w), Math.max(1, h), r);
    g.fillStyle = this.colors[name]; g.fill();
  }

  // A van seen from above, heading east, in its state's colour with a soft glow: drawn once, then only stamped.
  drawVan(state) {
    const size = 44 * this.scale, { ratio } = this.box, k = this.scale;
    const sprite = new OffscreenCanvas(Math.ceil(size * ratio), Math.ceil(size * ratio)), g = sprite.getContext('2d');
    g.scale(ratio, ratio); g.translate(size / 2, size / 2); g.scale(k, k);
    const glow = g.createRadialGradient(0, 0, 3, 0, 0, 20);
    glow.addColorStop(0, `${this.colors[state]}66`);
    glow.addColorStop(1, `${this.colors[state]}00`);
    g.fillStyle = glow; g.fillRect(-20, -20, 40, 40);
    g.fillStyle = this.colors[state];
    g.beginPath(); g.roundRect(-9, -4.5, 18, 9, [2.5, 4, 4, 2.5]); g.fill();
    g.fillStyle = this.colors['van-ink'];
    g.beginPath(); g.roundRect(3.4, -3.2, 2.4, 6.4, 1); g.fill();
    return { sprite, size };
  }

  // Where the vehicle was at `time`, between two of its events: along the streets, so a turn between two events
  // goes round the corner instead of over the roofs.
  locate(v, time) {
    const s = v.samples;
    while (s.length > 2 && s[1].sent_at <= time) s.shift();
    const a = s[0], b = s[1];
    if (!b) return { x: a.x, y: a.y, heading: a.heading, state: a.state, event: a };
    const f = clamp((time - a.sent_at) / Math.max(1, b.sent_at - a.sent_at), 0, 1);
    const dx = b.x - a.x, dy = b.y - a.y, way = Math.abs(dx) + Math.abs(dy), event = f < 1 ? a : b, state = event.state;
    if (way < 1e-5 || calm.matches) return { x: event.x, y: event.y, heading: event.heading, state, event };
    const flat = Math.abs(Math.cos(a.heading)) > 0.7;  // leaves along x
    const east = dx < 0 ? Math.PI : 0, south = dy < 0 ? -Math.PI / 2 : Math.PI / 2;
    const first = flat ? Math.abs(dx) : Math.abs(dy), gone = f * way, turned = gone > first;
    const u = first ? Math.min(1, gone / first) : 1, w = turned ? (gone - first) / (way - first) : 0;
    return { x: a.x + dx * (flat ? u : w), y: a.y + dy * (flat ? w : u), heading: flat !== turned ? east : south, state, event };
  }

  draw(now, dt) {
    if (!this.box?.w || !this.sprites) return;
    const { g, w, h } = fit(this.canvas), k = this.scale, still = calm.matches;
    g.drawImage(this.city, 0, 0, w, h);
    const wall = wallClock(), counts = { moving: 0, delivering: 0, charging: 0 }, hubs = new Map();
    const lines = new Map(), shown = [];
    for (const v of this.model.vehicles.values()) {
      const silent = now - v.heardAt;
      // Shown late by the latency and a little more than one interval: then there is nearly always a next event to go to.
      v.behind ??= this.model.delay + v.interval * 1.2;
      v.behind += (this.model.delay + v.interval * 1.2 - v.behind) * Math.min(1, dt * 0.7);
      const p = this.locate(v, wall - v.behind), state = STATES.includes(p.state) ? p.state : 'moving';
      counts[state]++;
      const turn = Math.atan2(Math.sin(p.heading - v.heading), Math.cos(p.heading - v.heading));
      v.heading += still ? turn : turn * (1 - Math.exp(-dt * 9));
      // Right-hand traffic; at the kerb while delivering; side by side at a charging hub.
      const ease = still ? 1 : 1 - Math.exp(-dt * 4);
      v.lane += ((state === 'delivering' ? 8 : state === 'charging' ? 0 : 3.4) * k - v.lane) * ease;
      let place = 0;
      if (state === 'charging') {
        const key = `${p.x.toFixed(2)},${p.y.toFixed(2)}`;
        hubs.set(key, place = (hubs.get(key) || 0) + 1);
      }
      v.slot += ((place ? 1 : 0) - v.slot) * ease;
      if (place) v.angle = place * 1.257 - 2.2;
      let [x, y] = this.at(p.x, p.y);
      x += -Math.sin(v.heading) * v.lane + Math.cos(v.angle || 0) * v.slot * 24 * k;
      y += Math.cos(v.heading) * v.lane + Math.sin(v.angle || 0) * v.slot * 24 * k;
      const last = v.trail.at(-1);
      if (!last || Math.hypot(x - last.x, y - last.y) > 4) v.trail.push({ x, y, t: now });
      while (v.trail.length && now - v.trail[0].t > TRAIL_MS) v.trail.shift();
      if (!still) this.collectTrail(lines, v, state, x, y, now);
      shown.push({ v, x, y, state, event: p.event, alpha: clamp((30000 - silent) / 20000, 0.25, 1) });
    }
    // One path per colour and age: a few dozen strokes however many vehicles there are.
    g.lineCap = 'butt';  // round ends would show as dots where two half-transparent pieces meet
    for (const [key, path] of lines) {
      const [state, bucket] = key.split(' '), young = 1 - bucket / BUCKETS;
      g.strokeStyle = this.colors[state]; g.globalAlpha = 0.55 * young ** 1.6; g.lineWidth = (1 + 2 * young) * k;
      g.stroke(path);
    }
    for (const s of shown) this.drawVehicle(g, s, now, still);
    g.globalAlpha = 1;
    this.drawRipples(g, now);
    this.hover(g, shown);
    this.counts = counts;
  }

  collectTrail(lines, v, state, x, y, now) {
    let from = v.trail[0];
    for (let i = 1; i <= v.trail.length; i++) {
      const to = v.trail[i] || { x, y, t: now };
      const key = `${state} ${clamp(Math.floor((now - to.t) / TRAIL_MS * BUCKETS), 0, BUCKETS - 1)}`;
      let path = lines.get(key);
      if (!path) lines.set(key, path = new Path2D());
      // A jump (a vehicle restarted elsewhere) leaves no line across the city.
      if (Math.hypot(to.x - from.x, to.y - from.y) < 60) { path.moveTo(from.x, from.y); path.lineTo(to.x, to.y); }
      from = to;
    }
  }

  drawVehicle(g, { v, x, y, state, event, alpha }, now, still) {
    const k = this.scale;
    g.globalAlpha = alpha; g.strokeStyle = this.colors[state];
    if (state === 'delivering' && !still) {
      const beat = (now / 1400 + v.id.length * 0.13 + v.id.charCodeAt(v.id.length - 1) * 0.37) % 1;
      g.globalAlpha = alpha * (1 - beat) * 0.8; g.lineWidth = 1.6;
      g.beginPath(); g.arc(x, y, (8 + 13 * beat) * k, 0, 7); g.stroke();
      g.globalAlpha = alpha;
    }
    if (state === 'charging') {
      const from = -Math.PI / 2, r = 13 * k;
      g.lineWidth = 2.2 * k; g.globalAlpha = alpha * 0.25;
      g.beginPath(); g.arc(x, y, r, 0, 7); g.stroke();
      g.globalAlpha = alpha;
      g.beginPath(); g.arc(x, y, r, from, from + Math.PI * 2 * clamp(event.battery ?? 0, 0, 1)); g.stroke();
    }
    const { sprite, size } = this.sprites[state];
    g.save(); g.translate(x, y); g.rotate(v.heading);
    g.drawImage(sprite, -size / 2, -size / 2, size, size);
    g.restore();
  }

  ripple() { if (!calm.matches && this.ripples.length < 4) this.ripples.push(performance.now()); }

  drawRipples(g, now) {
    const { w, h } = this.box;
    this.ripples = this.ripples.filter((t) => now - t < 1800);
    for (const t of this.ripples) {
      const f = (now - t) / 1800;
      g.strokeStyle = this.colors.message; g.globalAlpha = (1 - f) ** 2 * 0.7; g.lineWidth = 3;
      g.beginPath(); g.arc(w / 2, 40, 30 + (1 - (1 - f) ** 2) * Math.max(w, h) * 0.8, 0, 7); g.stroke();
    }
    g.globalAlpha = 1;
  }

  hover(g, shown) {
    let best = null, near = 26;
    if (this.pointer) for (const s of shown) {
      const d = Math.hypot(s.x - this.pointer.x, s.y - this.pointer.y);
      if (d < near) { near = d; best = s; }
    }
    const tip = $('tip');
    if (tip.hidden !== !best) tip.hidden = !best;
    this.canvas.style.cursor = best ? 'pointer' : '';
    if (!best) return;
    const { event, x, y, v } = best;
    g.strokeStyle = this.colors[best.state]; g.lineWidth = 1.5;
    g.beginPath(); g.arc(x, y, 17 * this.scale, 0, 7); g.stroke();
    const text = `${v.id}\n${event.state}, ${Math.round(event.speed ?? 0)} km/h\nbattery ${Math.round((event.battery ?? 0) * 100)} %\nevent ${event.seq}`;
    if (tip.textContent !== text) tip.textContent = text;
    const left = x > this.box.w - 170 ? x - 156 : x + 22, top = clamp(y - 46, 8, this.box.h - 150);
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}

// ---- Panels ----------------------------------------------------------------------------------------------------

const setText = (id, text) => { const el = $(id); text = String(text); if (el.textContent !== text) el.textContent = text; };
const millis = (v) => (v === undefined ? '–' : v < 9.95 ? v.toFixed(1) : String(Math.round(v)));
const showTime = (id, v, name) => {
  const long = v >= 1000;
  setText(id, long ? (v / 1000).toFixed(1) : millis(v));
  setText(`${id}-unit`, `${long ? 's' : 'ms'} ${name}`);
};

const total = (sequences) => Object.values(sequences).reduce((sum, seq) => sum + seq, 0);

class Tiles {
  constructor(model) { this.model = model; }

  numbers() {
    const m = this.model, rate = m.rate();
    setText('rate', rate && rate < 10 ? rate.toFixed(1) : Math.round(rate));
    setText('gaps', m.gaps);
    setText('duplicates', m.duplicates);
    $('integrity').classList.toggle('bad', m.gaps > 0);
    setText('integrity-text', m.offline ? `${m.offline} more went by while this page was disconnected.`
      : m.gaps ? 'Sequence numbers are missing.' : m.duplicates ? 'Nothing missing; some came twice.'
        : hook.received ? `All ${m.vehicles.size} vehicles in order.` : 'Waiting for numbered events.');
    // The fleet was there before the page: only what it numbered since can have arrived here. And it has published
    // at least what arrived, whatever it said a moment ago.
    setText('received', hook.received - m.duplicates);
    if (!live.now) return;
    const before = total(hook.firstSeq) - Object.keys(hook.firstSeq).length;
    setText('published', Math.max(live.now.fleet.published, total(hook.lastSeq)) - before);
  }

  charts() {
    const m = this.model, sorted = Float64Array.from(m.recent(10000)).sort();
    const rank = (q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
    const p50 = rank(0.5), p99 = rank(0.99);
    this.p50 = p50;
    live.draw($('backlog'), fit, cssColor);
    showTime('latency-p50', p50, 'p50');
    showTime('latency-p99', p99, 'p99');
    this.spark();
    this.histogram(sorted, p50, p99);
  }

  spark() {
    const m = this.model, { g, w, h } = fit($('spark'));
    m.roll(performance.now());
    g.clearRect(0, 0, w, h);
    // The running second is left out: it is always half empty.
    const values = Array.from({ length: 60 }, (_, i) => m.seconds[(m.second - 60 + i + 64) % 64] * (m.second - 60 + i >= 0));
    const top = Math.max(1, ...values) * 1.15, line = new Path2D();
    const from = Math.max(0, 60 - (m.second - Math.ceil((hook.firstEventAt ?? Infinity) / 1000)));
    if (from > 58) return;
    for (let i = from; i < 60; i++) line.lineTo(i / 59 * w, h - 1.5 - values[i] / top * (h - 3));
    g.strokeStyle = g.fillStyle = cssColor('moving');
    g.lineWidth = 1.8; g.lineJoin = 'round'; g.stroke(line);
    line.lineTo(w, h); line.lineTo(from / 59 * w, h);
    g.globalAlpha = 0.16; g.fill(line); g.globalAlpha = 1;
  }

  histogram(sorted, p50, p99) {
    const { g, w, h } = fit($('histogram')), bars = 36, counts = new Array(bars).fill(0);
    const place = (ms) => clamp(Math.log10(Math.max(1, ms)) / 3, 0, 0.9999);  // 1 ms to 1 s, logarithmic
    for (const ms of sorted) counts[Math.floor(place(ms) * bars)]++;
    g.clearRect(0, 0, w, h);
    const top = Math.sqrt(Math.max(1, ...counts)), step = w / bars;
    const [fill, empty, slow] = ['moving', 'line', 'delivering'].map(cssColor), tail = p99 === undefined ? bars : Math.floor(place(p99) * bars);
    counts.forEach((n, i) => {
      // Square root: the few slow ones are the interesting ones and must be seen.
      const tall = n ? Math.max(3, Math.sqrt(n) / top * h) : 2;
      g.fillStyle = !n ? empty : i >= tail ? slow : fill;
      g.fillRect(i * step + 0.5, h - tall, Math.max(1, step - 1.5), tall);
    });
    $('histogram').setAttribute('aria-label', p50 === undefined ? 'No latency measured yet'
      : `Latency of the last 10 seconds: half within ${millis(p50)} ms, 99 of 100 within ${millis(p99)} ms`);
  }
}

class Flow {
  constructor() {
    this.links = [...document.querySelectorAll('.link')].map((el) => ({ el, width: 0, alive: 0 }));
    const sizes = new ResizeObserver((entries) => { for (const e of entries) this.links.find((l) => l.el === e.target).width = e.contentRect.width; });
    for (const l of this.links) sizes.observe(l.el);
    this.next = 0; this.seen = 0;
  }

  // One dot stands for a few events: each would be a blur.
  tick(now, rate) {
    if (hook.received === this.seen || now < this.next) return;
    this.seen = hook.received;
    this.next = now + 1000 / (1.5 + Math.sqrt(rate) * 0.6);
    this.pulse();
  }

  pulse(own = false) {
    if (calm.matches || document.hidden) return;
    this.links.forEach((l, i) => {
      if (l.alive > 20) return;
      const dot = document.createElement('i');
      if (own) dot.className = 'own';
      l.el.append(dot); l.alive++;
      const end = `translateX(${l.width}px)`;
      const run = dot.animate([{ transform: 'translateX(0)', opacity: 0 }, { opacity: 1, offset: 0.15 }, { opacity: 1, offset: 0.85 }, { transform: end, opacity: 0 }],
        { duration: 700, delay: i * 560, easing: 'ease-in-out', fill: 'both' });
      run.onfinish = () => { dot.remove(); l.alive--; };
    });
  }
}

class Frames {
  static KEEP = 50;
  all = []; control = []; paused = false; dirty = false;

  constructor() {
    const toggle = $('frames-toggle'), pause = $('frames-pause');
    const open = (shown) => {
      $('frames').hidden = !shown;
      toggle.setAttribute('aria-expanded', shown);
      this.dirty = true;
      this.render(true);
      (shown ? $('frames-list') : toggle).focus({ preventScroll: true });
    };
    toggle.addEventListener('click', () => open($('frames').hidden));
    $('frames-close').addEventListener('click', () => open(false));
    addEventListener('keydown', (e) => { if (e.key === 'Escape' && !$('frames').hidden) open(false); });
    pause.addEventListener('click', () => {
      this.paused = !this.paused;
      pause.setAttribute('aria-pressed', this.paused);
      pause.textContent = this.paused ? 'Resume' : 'Pause';
      $('frames').classList.toggle('paused', this.paused);
    });
    $('frames-control').addEventListener('change', () => { this.dirty = true; this.render(true); });
  }

  // Frames that are not data are few, and gone in half a second from a list of all: they have a list of their own.
  add(direction, text, data = false) {
    if (this.paused) return;
    const entry = { direction, text, at: Date.now() };
    for (const list of data ? [this.all] : [this.all, this.control]) { list.push(entry); if (list.length > Frames.KEEP) list.shift(); }
    this.dirty = true;
  }

  render(force = false) {
    if (!this.dirty || $('frames').hidden || (this.paused && !force)) return;
    this.dirty = false;
    const entries = $('frames-control').checked ? this.control : this.all, list = $('frames-list');
    while (list.children.length < entries.length) {
      const li = document.createElement('li');
      li.append(...['', '', ''].map(() => document.createElement('span')));
      list.append(li);
    }
    while (list.children.length > entries.length) list.lastChild.remove();
    entries.forEach((e, i) => {
      const li = list.children[entries.length - 1 - i], [time, arrow, text] = li.children;
      li.className = e.direction;
      time.textContent = new Date(e.at).toISOString().slice(11, 23);
      arrow.textContent = { in: '↓', out: '↑', note: '·' }[e.direction];
      arrow.title = { in: 'received', out: 'sent', note: 'connection' }[e.direction];
      text.textContent = e.text.slice(0, 2000);
    });
  }
}

function copyButtons() {
  for (const button of document.querySelectorAll('[data-copy]')) button.addEventListener('click', async () => {
    const source = $(button.dataset.copy);
    let done = true;
    // The clipboard API exists only on secure origins; over plain http to another host the text is selected instead.
    try { await navigator.clipboard.writeText(source.textContent); } catch { getSelection().selectAllChildren(source); done = document.execCommand('copy'); }
    button.textContent = done ? 'Copied' : 'Selected';
    button.classList.add('done');
    setTimeout(() => { button.textContent = 'Copy'; button.classList.remove('done'); }, 1600);
  });
}

// ---- The page --------------------------------------------------------------------------------------------------

const model = new Model(), map = new FleetMap($('map'), model), flow = new Flow();
const tiles = new Tiles(model), frames = new Frames();

const messages = new Messages((text) => {
  setText('toast-text', text.slice(0, 160));
  $('toast').classList.add('on');
  clearTimeout(messages.timer);
  messages.timer = setTimeout(() => $('toast').classList.remove('on'), 5000);
  map.ripple();
  flow.pulse(true);
});
const live = new Live(
  () => ({ gaps: model.gaps, duplicates: model.duplicates, known: total(hook.lastSeq), vehicles: model.vehicles.size, p50: tiles.p50 }),
  (now) => { messages.update(now.messages); showState(); },
);

const getJson = async (path) => {
  const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};

function showFacts(facts) {
  setText('hint-publish', facts.publish_hint);
  setText('hint-subscribe', facts.subscribe_hint);
  setText('hint-config', facts.config);
  setText('flow-broker', facts.broker);
  // On loopback of the machine that the demo runs on.
  if (!facts.locked) $('foot-status').href = facts.status;
  live.locked = facts.locked && !token;
  $('break-why').hidden = !live.locked;
  for (const field of $('send').elements) field.disabled = live.locked;
  setText('flow-api', new URL(facts.endpoint).host);
  setText('facts', `Broker ${facts.broker}, endpoint ${facts.endpoint}, channel ${facts.channel}.`);
}

const LABELS = { connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', error: 'Refused' };
const PHASES = { outage: 'Outage', draining: 'Catching up', recovered: 'Recovered', stale: 'Stale', ended: 'Over' };
const showState = () => setText('state-text', PHASES[document.body.dataset.phase] ?? LABELS[socket.state]);
const socket = new EventSocket({
  async facts() { const facts = await getJson('/demo.json'); showFacts(facts); return facts; },
  state(state) {
    document.body.dataset.state = state;
    if (state === 'live') model.epoch++;
  },
  notice(text) { $('notice').hidden = !text || live.ended; setText('notice-text', text); },
  event(text) { model.event(text); },
  frame(direction, text, data) { frames.add(direction, text, data); },
});

let lastFrame = performance.now(), lastNumbers = 0, lastCharts = 0, drawing = 0;  // the last: ms that a frame of the map takes
function animate() {
  requestAnimationFrame(animate);
  // Not the time that comes with the frame: on a busy machine that is behind of what was noted since, and ages would be negative.
  const now = performance.now();
  const dt = Math.min(0.25, (now - lastFrame) / 1000);
  for (const text of model.newMessages.splice(0)) messages.arrived(text);
  if (calm.matches && now - lastFrame < 500) return;
  // A slow machine draws seldom, so that what it has received does not wait for the pictures.
  if (now - lastFrame < Math.min(250, 3 * drawing)) return;
  lastFrame = now;
  map.draw(now, dt);
  drawing += (performance.now() - now - drawing) * 0.2;
  flow.tick(now, model.rate(now));
  if (now - lastNumbers > 120) { lastNumbers = now; tiles.numbers(); frames.render(); showState(); for (const s of STATES) setText(`n-${s}`, map.counts?.[s] ?? 0); }
  if (now - lastCharts > 500) { lastCharts = now; tiles.charts(); }
  if (hook.received) $('waiting').classList.add('done');
}

copyButtons();
buttons(live);
$('notice-retry').addEventListener('click', () => socket.connect());
addEventListener('online', () => { if (socket.state !== 'live') socket.connect(); });
addEventListener('pagehide', () => socket.close());
addEventListener('pageshow', (e) => { if (e.persisted) socket.connect(); });
socket.connect();
requestAnimationFrame(animate);
