// A page of ours, the demo's or that of the admin port, in a headless Chromium, driven by lines of standard input:
//
//   node page.mjs USER_DATA_DIRECTORY
//
//   open URL          until the first event is there: {"first_event_at":…}, in ms since 1970
//   counts EVENTS     until the page has received so many, and then all that the fleet had published
//                     by that moment: {"received":…,"published":…,"behind":…,"rate":…,…}
//   message TEXT      until it is among the messages, and arrived: {"message":…}, the whole entry
//   break WHAT        presses that button: {"after_ms":…,"story":…}, when the page is amber, and its sentence
//   story TEXT        until the sentence has it: {"story":…}
//   phase PHASE       until the page is in it: {"story":…,"waiting":…,"peak":…,"pid":…} and what was counted
//   send JSON         a message with this `topic` and `payload`, until its fate is shown: {"fate":…,"entry":…}
//   frames .          opens the raw frames and closes them with Escape: {"inside":…,"lines":…,"wide":…,"closed":…}
//   screenshot PATH   {"screenshot":…}
//
// and of the admin port's:
//
//   visit URL         until it shows an answer: {"state":…}, with the headers of the page
//   look JSON         at {"width":…,"height":…,"scheme":"dark" or "light"}
//   until TEXT        until it is shown somewhere: {"text":…}, all of it
//   state STATE       until it is in this state: {"state":…}
//   click SELECTOR    {"clicked":…}
//   measure .         {"wide":…,"width":…}: the width of what is shown, and of the window; with {"complaints":…}
//                     so far, {"unnamed":…}, what a reader of the screen could not name, and {"focus":…}, what Tab
//                     comes to
//   picture PATH      of the whole page: {"screenshot":…}
//
// It says {"ready":true} when the browser runs, answers every line with one JSON object, and says
// {"error":…} and ends with 1 when something is not to be had. At the end of its input it closes the
// browser.

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const PATIENCE = 100_000;

// What a browser does by itself is kept off the network.
const ARGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

let complaints = [];

const commands = {
  async open(page, url) {
    await page.goto(url, { waitUntil: 'commit' });
    const at = await page.waitForFunction(
      () => window.appsyncDemo?.firstEventAt && performance.timeOrigin + window.appsyncDemo.firstEventAt,
    );
    return { first_event_at: await at.jsonValue() };
  },

  async counts(page, events) {
    await page.waitForFunction((count) => window.appsyncDemo.received >= count, Number(events));
    const fleet = await page.evaluate(async () => {
      const answer = await fetch('/live.json', { cache: 'no-store' });
      return { ...(await answer.json()).fleet, at: performance.now() };
    });
    // Vans count from 1: the sum of their last numbers is what the page knows to be published.
    const known = ({ published }) =>
      Object.values(window.appsyncDemo.lastSeq).reduce((sum, seq) => sum + seq, 0) >= published;
    await page.waitForFunction(known, fleet);
    const counts = await page.evaluate(({ at, ...rest }) => {
      const { received, firstSeq, lastSeq } = window.appsyncDemo;
      const ids = Object.keys(lastSeq), now = performance.now();
      // What the numbers say that came, whatever the page counted.
      const numbered = ids.reduce((sum, id) => sum + lastSeq[id] - firstSeq[id] + 1, 0);
      return { ...rest, received, numbered, seen: ids.length, at: now, behind: Math.round(now - at) };
    }, fleet);
    const shown = (id) => page.textContent(`#${id}`);
    return { ...counts, gaps: Number(await shown('gaps')), duplicates: Number(await shown('duplicates')), complaints };
  },

  async message(page, text) {
    const entry = page.locator('#messages li.arrived', { hasText: text }).first();
    await entry.waitFor();
    return { message: await entry.innerText() };
  },

  async break(page, what) {
    await page.waitForFunction((name) => !document.querySelector(`[data-break="${name}"]`).disabled, what);
    // Amber is what a person sees: the colour of the sentence's rim, and not only a word in the page. Timed in the page,
    // from the click on.
    await page.evaluate((name) => {
      const probe = document.body.appendChild(document.createElement('i'));
      probe.style.color = 'var(--amber)';
      const amber = getComputedStyle(probe).color;
      probe.remove();
      const color = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
      const look = (from) => {
        const done = document.body.dataset.phase === 'outage' && color('.story', 'borderTopColor') === amber && color('.state', 'color') === amber;
        if (done) window.amberAfter = performance.now() - from; else setTimeout(look, 10, from);
      };
      window.amberAfter = null;
      document.querySelector(`[data-break="${name}"]`).addEventListener('click', () => look(performance.now()), { once: true, capture: true });
    }, what);
    await page.click(`[data-break="${what}"]`);
    const after = await page.waitForFunction(() => window.amberAfter, undefined, { polling: 20 });
    return { after_ms: Math.round(await after.jsonValue()), story: await page.textContent('#story') };
  },

  async story(page, text) {
    await page.waitForFunction((words) => document.getElementById('story').textContent.includes(words), text);
    return { story: await page.textContent('#story') };
  },

  async phase(page, phase) {
    await page.waitForFunction((name) => document.body.dataset.phase === name, phase, { polling: 50 });
    return page.evaluate(async () => {
      const shown = (id) => document.getElementById(id).textContent;
      const { firstSeq, lastSeq } = window.appsyncDemo;
      const counts = { gaps: Number(shown('gaps')), duplicates: Number(shown('duplicates')), first: { ...firstSeq }, last: { ...lastSeq } };
      // A demo that is stopped never answers.
      const live = await fetch('/live.json', { signal: AbortSignal.timeout(3000) }).then((answer) => answer.json()).catch(() => ({}));
      return { ...counts, story: shown('story'), waiting: live.broker?.waiting, peak: live.trouble?.peak, pid: live.bridge?.pid };
    });
  },

  async send(page, message) {
    const { topic, payload } = JSON.parse(message);
    const before = await page.locator('#messages li').count();
    await page.fill('#send-topic', topic);
    await page.fill('#send-payload', payload);
    await page.click('#send-go');
    await page.waitForFunction(([count]) => document.querySelectorAll('#messages li').length > count
      && document.querySelector('#messages li').className !== 'underway', [before]);
    const entry = page.locator('#messages li').first();
    return { fate: await entry.getAttribute('class'), entry: await entry.innerText() };
  },

  async frames(page) {
    await page.click('#frames-toggle');
    await page.waitForFunction(() => document.querySelectorAll('#frames-list li').length > 10);
    const seen = await page.evaluate(() => {
      const box = (selector) => document.querySelector(selector).getBoundingClientRect();
      const map = box('.map'), frames = box('#frames'), list = document.getElementById('frames-list');
      const inside = frames.top >= map.top && frames.bottom <= map.bottom && frames.left >= map.left && frames.right <= map.right;
      return { inside, lines: list.children.length, wide: list.scrollWidth > list.clientWidth, text: list.firstElementChild.innerText };
    });
    await page.keyboard.press('Escape');
    return { ...seen, closed: await page.isHidden('#frames') };
  },

  async visit(page, url) {
    complaints = [];
    const answer = await page.goto(url);
    await page.waitForFunction(() => document.body.dataset.state !== 'connecting');
    return { state: await page.evaluate(() => document.body.dataset.state), headers: answer.headers() };
  },

  async look(page, how) {
    const { width, height, scheme } = JSON.parse(how);
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    return { look: how };
  },

  async until(page, text) {
    await page.waitForFunction((words) => document.body.innerText.includes(words), text);
    return { text: await page.evaluate(() => document.body.innerText) };
  },

  async state(page, state) {
    await page.waitForFunction((name) => document.body.dataset.state === name, state);
    return { state };
  },

  async click(page, selector) {
    await page.click(selector);
    return { clicked: selector };
  },

  async measure(page) {
    const shown = await page.evaluate(() => {
      const name = (e) => e.getAttribute('aria-label') ?? e.textContent.trim();
      const named = [...document.querySelectorAll('a, [role=img], section, h1, h2, h3')];
      // `overflow: hidden` would hide what is too wide from the one, but not from the other.
      const edges = [...document.querySelectorAll('body *')].map((e) => e.getBoundingClientRect().right);
      const wide = Math.max(document.documentElement.scrollWidth, ...edges);
      return { wide, width: innerWidth, unnamed: named.filter((e) => !name(e)).map((e) => e.outerHTML) };
    });
    const focus = [];
    for (let n = 0; n < 20; n++) {
      await page.keyboard.press('Tab');
      const at = await page.evaluate(() => document.activeElement?.textContent);
      if (focus.includes(at)) break;
      focus.push(at);
    }
    await page.evaluate(() => document.activeElement?.blur());
    return { ...shown, focus, complaints };
  },

  async picture(page, path) {
    await page.screenshot({ path, fullPage: true });
    return { screenshot: path };
  },

  async screenshot(page, path) {
    await page.screenshot({ path });
    return { screenshot: path };
  },
};

let context;
try {
  context = await chromium.launchPersistentContext(process.argv[2], {
    executablePath: '/usr/bin/chromium',
    args: ARGS,
    viewport: { width: 1440, height: 900 },
    colorScheme: process.env.COLOR_SCHEME ?? 'dark',
  });
  context.setDefaultTimeout(PATIENCE);
  const page = context.pages()[0] ?? (await context.newPage());
  // What a busy machine does: the time that comes with a frame is older than what the page noted before it.
  await page.addInitScript(() => {
    const request = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => request((time) => draw(time - 100));
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (entry) => entry.type() === 'error' && complaints.push(entry.text()));
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const [, name, argument] = line.match(/^(\S+) (.*)$/);
    say(await commands[name](page, argument));
  }
} catch (error) {
  say({ error: String(error) });
  process.exitCode = 1;
}
await context?.close();
