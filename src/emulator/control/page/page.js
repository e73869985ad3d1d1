// What goes on in the emulator, by `/_emulator/view`, and what a person may do to it.

const $ = (id) => document.getElementById(id);
const make = (name, text = '', className = '') => { const el = document.createElement(name); el.textContent = text; if (className) el.className = className; return el; };
const setText = (id, text) => { const el = $(id); text = String(text); if (el.textContent !== text) el.textContent = text; };
const count = (n) => Number(n).toLocaleString('en-US');
const clock = (at) => new Date(at).toISOString().slice(11, 23);
const ago = (at) => { const s = Math.max(0, Math.round((Date.now() - at) / 1000)); return s < 60 ? `${s} s ago` : `${Math.round(s / 60)} min ago`; };

// The faults to press; each is sent as it is.
const PRESETS = [
  ['503 to everything', { fault: { answer: { status: 503, body: '<html>503 Service Unavailable</html>' } } }],
  ['Throttle to 20 events a second', { fault: { throttle: { events_per_second: 20 } } }],
  ['Refuse every namespace (401)', { fault: { refuse_namespace: {} } }],
  ['Fail one event in three', { fault: { fail_events: { code: 500, probability: 0.33 } } }],
  ['500 ms late', { fault: { slow: { delay: '500ms' } } }],
  ['Cut one connection in ten', { fault: { cut: { when: 'after' } }, probability: 0.1 }],
];
const same = (shown, preset) => JSON.stringify(shown.fault) === JSON.stringify(preset.fault);
const plain = ({ asked, struck, events, ...fault }) => fault;

let view = null, heardAt = 0;

async function ask(path, method = 'GET', body) {
  const answer = await fetch(path, { method, cache: 'no-store', body: body && JSON.stringify(body), signal: AbortSignal.timeout(5000) });
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.errors?.[0]?.message ?? `status ${answer.status}`);
  return json;
}

async function poll() {
  try { show(await ask('/_emulator/view')); } catch { /* its age is shown */ }
  if (performance.now() - heardAt > 2500) {
    document.body.dataset.state = 'gone';
    setText('state', view ? 'Gone' : 'No answer');
  }
  setTimeout(poll, 500);
}

function rows(body, list, cells) {
  body.replaceChildren(...list.map((item) => { const tr = make('tr'); tr.append(...cells(item).map((text) => make('td', text))); return tr; }));
}

function show(now) {
  view = now;
  heardAt = performance.now();
  document.body.dataset.state = now.faults.length ? 'faulty' : 'live';
  setText('state', now.faults.length ? 'Faults on' : 'Live');
  setText('endpoint', now.endpoint);
  for (const id of ['events', 'publishes', 'deliveries', 'sockets']) setText(id, count(now[id]));
  const loud = [now.any_jwt && 'Every token that looks like a JWT is accepted (--any-jwt): nothing in it is verified.', !now.verify_signatures && 'Signatures are not verified.'].filter(Boolean);
  $('loud').hidden = !loud.length;
  setText('loud', loud.join(' '));
  rows($('channels'), now.channels, (c) => [c.name, count(c.events), count(c.receivers), ago(c.at)]);
  $('channels').parentElement.hidden = !now.channels.length;
  $('no-channels').hidden = now.channels.length > 0;
  rows($('subscriptions'), now.subscriptions, (s) => [s.channel, count(s.count)]);
  $('subscriptions').parentElement.hidden = !now.subscriptions.length;
  $('no-subscriptions').hidden = now.subscriptions.length > 0;
  for (const [i, button] of [...$('presets').children].entries()) button.setAttribute('aria-pressed', now.faults.some((f) => same(f, PRESETS[i][1])));
  $('faults').replaceChildren(...now.faults.map((f) => { const li = make('li', JSON.stringify(plain(f))); li.append(make('b', ` struck ${count(f.struck)} of ${count(f.asked)}`)); return li; }));
  $('off').hidden = !now.faults.length;
  $('last').replaceChildren(...now.last.map((e) => {
    const li = make('li');
    li.append(make('time', clock(e.at)), make('b', e.channel), make('em', `${e.transport} → ${e.receivers}`), make('span', e.event));
    return li;
  }));
  $('no-last').hidden = now.last.length > 0;
  for (const where of ['browser', 'node']) setText(where, now.amplify[where]);
  setText('namespaces', now.namespaces.length ? `Namespaces: ${now.namespaces.map((n) => `${n.name} (${n.modes})`).join(', ')}.` : 'Every namespace exists and takes every mode.');
}

for (const [name, fault] of PRESETS) {
  const button = make('button', name);
  button.type = 'button';
  button.addEventListener('click', async () => {
    const others = view.faults.filter((f) => !same(f, fault)), on = others.length < view.faults.length;
    await ask('/_emulator/faults', 'PUT', [...others.map(plain), ...(on ? [] : [fault])]);
    show(await ask('/_emulator/view'));
  });
  $('presets').append(button);
}
$('off').addEventListener('click', async () => { await ask('/_emulator/faults', 'DELETE'); show(await ask('/_emulator/view')); });
$('publish').addEventListener('submit', async (e) => {
  e.preventDefault();
  const words = $('published');
  try {
    const { failed } = await ask('/_emulator/publish', 'POST', { channel: $('channel').value, events: [$('event').value] });
    words.className = failed.length ? 'bad' : '';
    words.textContent = failed.length ? failed[0].message : `accepted at ${clock(Date.now())}`;
  } catch (error) { words.className = 'bad'; words.textContent = error.message; }
});
poll();
