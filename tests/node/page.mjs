// A page of ours, the demo's or that of the admin port, in a headless Chromium, driven by lines of standard input:
//
//   node page.mjs USER_DATA_DIRECTORY
//
//   open URL          until the first event is there: {"first_event_at":…}, in ms since 1970
//   counts EVENTS     until the page has received so many, and then all that the fleet had published
//                     by that moment: {"received":…,"published":…,"behind":…,"rate":…,…}
//   message TEXT      until it is among the messages: {"message":…}, the whole entry
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
      const answer = await fetch('/fleet.json', { cache: 'no-store' });
      return { ...(await answer.json()), at: performance.now() };
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
    const entry = page.locator('#messages li', { hasText: text }).first();
    await entry.waitFor();
    return { message: await entry.innerText() };
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
