// Opens reports in Chromium, does what a reader does, and prints what was there to see, as JSON.
//
//     node report_browser.mjs PLAYWRIGHT CHROMIUM FOLDER
//
// FOLDER holds shop.html, hostile.html and large.html; test_report_browser.py says what must be seen.
// Screenshots stay there.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [playwright, chromium, folder] = process.argv.slice(2);
const { chromium: driver } = createRequire(join(playwright, "node_modules/"))("playwright-core");
const browser = await driver.launch({
  executablePath: chromium,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

/** A report in a tab of its own, and what went wrong there. */
async function opened(name, colorScheme = "light") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => wrong.push(message.text()));
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("dialog", (dialog) => { wrong.push("a dialog"); dialog.dismiss(); });
  page.on("request", (request) => {
    if (!request.url().startsWith("file://") || !request.url().includes(".html")) wrong.push(request.url());
  });
  await page.goto(pathToFileURL(join(folder, name)).href);
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  return { page, wrong };
}

const text = (page, selector) => page.locator(selector).allInnerTexts();
const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim().slice(0, 60));
const facts = {};

async function searched(page, words) {
  await page.fill("#search", words);
  await page.waitForFunction((query) => document.getElementById("results").dataset.of === query, words.toLowerCase());
  return { hits: await page.innerText("#hits"), results: await text(page, "#results li") };
}

{
  const { page, wrong } = await opened("shop.html");
  facts.headline = await page.innerText("h1");
  facts.causes = await text(page, "#causes .cause .text");
  facts.swatches = await page.locator("#chart rect").count();
  facts.missing = await text(page, "#missing li");
  await page.screenshot({ path: join(folder, "overview.png") });
  // With the mouse.
  await page.locator("#causes .cause button", { hasText: "price failed" }).click();
  facts.title = await page.innerText("#incident h2");
  facts.boxes = await page.locator("#incident .node").evaluateAll((all) => all.map((each) => each.getAttribute("aria-label")));
  facts.edges = await page.locator("#incident .edge").count();
  facts.evidence = await text(page, "#evidence > li");
  facts.lanes = await page.locator("#timeline text").evaluateAll((all) => all.map((each) => each.textContent));
  facts.found = await text(page, "#found li");
  facts.tasks = await text(page, "#tasks summary");
  await page.locator("#tasks summary").first().click();
  await page.waitForSelector("#tasks details[open] > div");
  facts.answer = await text(page, "#tasks details[open] > div");
  await page.screenshot({ path: join(folder, "light.png") });
  await page.locator("#incident .node", { hasText: "2 x fetch" }).click();
  facts.ofBox = await text(page, "#tasks summary");
  // With the address, and back.
  facts.address = new URL(page.url()).hash;
  await page.goBack();
  facts.backAgain = await page.locator("#incident").isVisible();
  // With the keyboard alone.
  await page.keyboard.press("/");
  await page.keyboard.type("reviews");
  await page.waitForFunction(() => document.getElementById("results").dataset.of === "reviews");
  facts.hits = await page.innerText("#hits");
  await page.keyboard.press("ArrowDown");
  facts.firstResult = await focused(page);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#incident h2");
  facts.byKeys = { title: await page.innerText("#incident h2"), tasks: await text(page, "#tasks summary") };
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  facts.onBox = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  await page.keyboard.press("Enter");
  facts.pressed = await page.locator('.node[aria-pressed="true"]').getAttribute("aria-label");
  await page.keyboard.press("Escape");
  facts.closed = [await page.locator("#incident").isVisible(), await focused(page)];
  facts.nothing = await searched(page, "no such thing");
  await page.focus("#search");
  await page.keyboard.press("Escape");
  facts.overviewAgain = await page.locator("#overview").isVisible();
  facts.wrong = wrong;
  facts.paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
}
{
  const { page, wrong } = await opened("shop.html#incident-0", "dark").catch(() => opened("shop.html", "dark"));
  await page.locator("#causes .cause button").first().click();
  await page.screenshot({ path: join(folder, "dark.png") });
  facts.dark = await page.evaluate(() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]);
  await page.setViewportSize({ width: 420, height: 700 });
  facts.narrow = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  await page.screenshot({ path: join(folder, "narrow.png") });
  facts.wrongDark = wrong;
}
{
  const { page, wrong } = await opened("hostile.html");
  const hostile = {};
  const count = await page.locator("#causes .cause button").count();
  for (let each = 0; each < count; each += 1) {
    await page.locator("#causes .cause button").nth(each).click();
    await page.waitForSelector("#incident h2");
    for (const summary of await page.locator("#tasks summary").all()) await summary.click();
  }
  hostile.shown = await page.innerText("body");
  for (const words of ["<script", "\"'>", "{{", "pwned"]) hostile[words] = (await searched(page, words)).hits;
  hostile.scripts = await page.locator("script").count();
  hostile.strangers = await page.locator("img, iframe, object, embed, link, a, form, main style, body style").count();
  hostile.pwned = await page.evaluate(() => window.pwned ?? null);
  // What would get in all the same may not run: the page's own policy stands before it.
  hostile.injected = await page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "window.pwned = 2";
    document.body.append(script);
    document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.pwned = 3">');
    await new Promise((done) => { setTimeout(done, 100); });
    return window.pwned ?? null;
  });
  hostile.refused = wrong.filter((each) => each.includes("Content Security Policy")).length;
  hostile.wrong = wrong.filter((each) => !each.includes("Content Security Policy") && each !== "data:,");
  facts.hostile = hostile;
}
{
  const { page, wrong } = await opened("large.html");
  const large = { opening: await page.evaluate(() => performance.now()) };
  let began = Date.now();
  const { hits } = await searched(page, "page 1999");
  large.searching = Date.now() - began;
  large.hits = hits;
  began = Date.now();
  await searched(page, "page 17");
  large.again = Date.now() - began;
  await page.locator("#results button").first().click();
  await page.waitForSelector("#tasks summary");
  large.elements = await page.evaluate(() => document.querySelectorAll("*").length);
  large.boxes = await page.locator(".node").evaluateAll((all) => all.map((each) => each.getAttribute("aria-label")));
  large.tasks = await page.locator("#tasks summary").count();
  await page.locator("#tasks .more-button").click();
  large.moreTasks = await page.locator("#tasks summary").count();
  large.wrong = wrong;
  facts.large = large;
}
await browser.close();
console.log(JSON.stringify(facts));
