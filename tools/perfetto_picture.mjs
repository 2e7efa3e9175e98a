// What Perfetto's page shows of a trace: node perfetto_picture.mjs DRIVER CHROMIUM PAGE TRACE PICTURE
// DRIVER is the folder that playwright-core is installed in, PAGE the address of the page.
import { createRequire } from "node:module";
import path from "node:path";

const [driver, executablePath, page, trace, picture] = process.argv.slice(2);
const { chromium } = createRequire(path.join(driver, "package.json"))("playwright-core");

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
});
const tab = await browser.newPage({ viewport: { width: 1060, height: 600 } });

// The page draws on a canvas: nothing in its document says that it has drawn.
const drawn = async () => {
  let before = null;
  for (;;) {
    await tab.waitForTimeout(500);
    const now = (await tab.screenshot()).toString("base64");
    if (now === before) return;
    before = now;
  }
};

await tab.goto(page);
await tab.locator("input.trace_file").first().setInputFiles(trace);
await drawn();
const note = tab.locator(".pf-modal-dialog button, .modal-dialog button").first();
if (await note.isVisible()) await note.click();
await tab.keyboard.press("Control+Shift+P");
await drawn();
await tab.keyboard.type("Expand all");
await drawn();
await tab.keyboard.press("Enter");
await drawn();
await tab.locator("input[placeholder^='Search']").first().click();
await tab.keyboard.type("asked to cancel");
await drawn();
for (let hit = 0; hit < 2; hit++) { // the first is the task that is asked, the second the asking
  await tab.keyboard.press("Enter");
  await drawn();
}
// Only the time line, with the arrows of what is chosen, around it.
await tab.mouse.click(1045, tab.viewportSize().height - 345);
await drawn();
await tab.mouse.move(700, 590);
await tab.keyboard.press("f");
await drawn();
for (let step = 0; step < 6; step++) await tab.keyboard.press("s");
await drawn();
await tab.screenshot({ path: picture });
await browser.close();
