// Shown view, theme, download and print.

const THEMES = ["system", "light", "dark"];
const stored = { // a file opened from disk may have no storage
  get: () => { try { return localStorage.getItem("cdm-report-theme"); } catch { return null; } },
  set: (theme) => { try { localStorage.setItem("cdm-report-theme", theme); } catch { /* kept until the page is closed */ } },
};

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  stored.set(theme);
  redraw();
}

let drawCohort = () => {};
function redraw() {
  if (byId("cohort").hidden) redrawPatient();
  else drawCohort();
}

const caseInHash = () => {
  const match = /^#case=(.+)$/.exec(location.hash);
  try {
    const name = match && decodeURIComponent(match[1]);
    return caseRows.has(name ?? "") ? name : null;
  } catch { return null; }
};

function showView() {
  const name = caseInHash();
  byId("cohort").hidden = name !== null;
  byId("patient").hidden = name === null;
  byId("to-cohort").toggleAttribute("aria-current", false);
  byId("to-patient").toggleAttribute("aria-current", false);
  byId(name === null ? "to-cohort" : "to-patient").setAttribute("aria-current", "page");
  byId("problem").hidden = true;
  document.title = `${name === null ? "" : `${name}, `}${record.dataset}: dose evaluation`;
  scrollTo(0, 0);
  if (name === null) drawCohort();
  else buildPatient(name).catch(showProblem);
}

const download = async () => save(await whole(), "result.json", "application/json");

// A printed page for a case. It has slices if the volume was unpacked: the Print button does that, the browser's own menu
// prints without them.
function printedCase(name, data, volume) {
  return el("section", { class: "print-page" },
    el("h2", {}, `${record.dataset}: ${name}`),
    el("p", {}, `${caseScores(name)}. ${missingText(name)}`),
    goalTable(name),
    data.problem ? el("p", { class: "problem" }, noPictures(data)) : staticDvh(data.curves, highestOf(data.curves), (roi) => roiLabel(record.cases[name].rois, roi), record.cases[name].rois),
    data.problem ? null : volume ? el("img", { src: pictureOf(volume, { ...settings, hidden: new Set(), contours: true, wash: true }), alt: "Slices with dose" })
      : el("p", { class: "muted" }, "Slices are printed with the report's own Print button."),
    volume ? el("p", {}, el("small", {}, `Dose from ${fixed(WASH_FROM * volume.prescription_gy, 1)} Gy on, colours to ${fixed(washHighest(volume), 1)} Gy; difference: blue ${fixed(-settings.span, 0)} Gy, red +${settings.span} Gy. Isodoses: ${[...settings.isodoses].join(" %, ")} % of ${plain(volume.prescription_gy)} Gy. `), el("small", {}, footerText())) : null);
}

let printReady = false;
// (In a report folder, each case is printed from its own view.)
const casesToPrint = () => (caseInHash() !== null ? [caseInHash()] : files ? [] : caseNames);
const printTarget = () => byId("printed");

function preparePrintAtOnce() {
  if (printReady) return;
  printTarget().replaceChildren(...casesToPrint().filter((name) => !files || loaded.name === name).map((name) => {
    const data = loaded.name === name ? loaded.data : readJson(`case-${caseNames.indexOf(name)}`);
    return printedCase(name, data, loaded.name === name ? loaded.volume : null);
  }));
  markFirst();
}

const markFirst = () => { if (caseInHash() !== null) printTarget().firstElementChild?.classList.add("first"); };

async function printAll() {
  const button = byId("print");
  const names = casesToPrint();
  button.disabled = true;
  const sections = [];
  for (const name of names) {
    button.textContent = `Preparing ${sections.length + 1} of ${names.length}`;
    const position = caseNames.indexOf(name);
    const data = JSON.parse(await part(`case-${position}`));
    const volume = data.problem ? null : await loadVolume(position, data.volume);
    sections.push(printedCase(name, data, volume));
  }
  printTarget().replaceChildren(...sections);
  markFirst();
  await Promise.all([...printTarget().querySelectorAll("img")].map((image) => image.decode()));
  button.disabled = false;
  button.textContent = "Print";
  printReady = true;
  window.print();
}

function footerText() {
  return `cdm_nnunet ${record.software.cdm_nnunet}, data set ${record.dataset}, template ${record.template}, ` +
    `${page.generated}. Research use, not for treatment.`;
}

byId("dataset").textContent = record.dataset;
byId("subtitle").textContent = `${counted(record.n_cases, "case")}, template ${record.template}`;
byId("footer").textContent = footerText();
byId("to-cohort").addEventListener("click", () => { location.hash = ""; });
byId("to-patient").addEventListener("click", () => openCase(caseInHash() ?? loaded.name ?? worstCase()));
byId("download").addEventListener("click", () => download().catch(showProblem));
byId("print").addEventListener("click", () => printAll().catch(showProblem));
byId("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % 3]));
addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range") return;
  const name = caseOrder[caseInHash() === null ? 0 : caseOrder.indexOf(caseInHash()) + step];
  if (name !== undefined) openCase(name);
});
addEventListener("beforeprint", preparePrintAtOnce);
addEventListener("afterprint", () => { printReady = false; printTarget().replaceChildren(); });
addEventListener("hashchange", showView);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

try {
  drawCohort = buildCohort();
  setTheme(THEMES.includes(stored.get()) ? stored.get() : "system");
  showView();
} catch (error) {
  showProblem(error);
  throw error;
}
