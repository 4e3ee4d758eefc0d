"use strict";
// Shows the scenes of this page. A scene is a NIfTI volume with versions: differences to it, and label maps.
(async () => {
  const element = (id) => document.getElementById(id);
  const scenes = JSON.parse(element("scenes").textContent);
  const HEADER = 352, DATATYPE = 70, BITS = 72, SLOPE = 112, INTER = 116, UINT8 = 2;
  const COLOURS = [[255, 176, 0], [53, 194, 255], [255, 93, 176], [139, 220, 75]]; // as in the pictures of the commands
  const view = { scene: null, version: null, source: null, after: null, entry: null };
  const entries = [];

  const unpacked = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };

  const fail = (error) => {
    document.body.dataset.state = "failed";
    element("status").textContent = `This page cannot be shown: ${error.message || error}`;
  };
  window.addEventListener("unhandledrejection", (event) => fail(event.reason));
  if (typeof DecompressionStream === "undefined") return fail("the browser is too old (before 2023)");

  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpacked(element("niivue").textContent));
  document.head.append(script);
  const nv = new niivue.Niivue({
    isRadiologicalConvention: true, isNearestInterpolation: true, dragAndDropEnabled: false, isColorbar: false,
    backColor: [0, 0, 0, 1], crosshairColor: [1, 0.69, 0, 0.5], crosshairWidth: 0.2, crosshairWidthUnit: "percent", logLevel: "error",
    loadingText: "", textHeight: 0.04,
  });
  await nv.attachToCanvas(element("canvas"));
  nv.setMultiplanarLayout(2);
  nv.opts.multiplanarShowRender = 0;

  // Calls visit(index in the volume, index in the box) for each voxel of a box.
  const walk = (box, shape, visit) => {
    const [columns, rows] = shape;
    const [depth, height, width] = box.size;
    let inside = 0;
    for (let z = 0; z < depth; z++)
      for (let y = 0; y < height; y++) {
        const line = ((box.start[0] + z) * rows + box.start[1] + y) * columns + box.start[2];
        for (let x = 0; x < width; x++) visit(line + x, inside++);
      }
  };

  const painted = async (scene, version) => {
    const after = view.source.slice();
    if (version.change) {
      const change = new Int16Array(await unpacked(version.change.data));
      walk(version.change, scene.shape, (voxel, inside) => { after[voxel] += change[inside]; });
    }
    return after;
  };

  const labelFile = async (scene, version, header) => {
    const buffer = new ArrayBuffer(HEADER + scene.shape.reduce((product, n) => product * n, 1));
    const bytes = new Uint8Array(buffer), fields = new DataView(buffer);
    bytes.set(new Uint8Array(header));
    fields.setInt16(DATATYPE, UINT8, true);
    fields.setInt16(BITS, 8, true);
    fields.setFloat32(SLOPE, 1, true);
    fields.setFloat32(INTER, 0, true);
    if (version.labels) {
      const labels = new Uint8Array(await unpacked(version.labels.data));
      walk(version.labels, scene.shape, (voxel, inside) => { bytes[HEADER + voxel] = labels[inside]; });
    }
    return buffer;
  };

  const colours = (most) => {
    const map = { R: [0], G: [0], B: [0], A: [0], I: [0] };
    for (let value = 1; value <= most; value++) {
      const [red, green, blue] = COLOURS[(value - 1) % COLOURS.length];
      map.R.push(red); map.G.push(green); map.B.push(blue); map.A.push(255); map.I.push(value);
    }
    return map;
  };

  const blend = () => {
    const share = Number(element("blend").value), image = nv.volumes[0].img;
    if (view.after) for (let i = 0; i < image.length; i++) image[i] = view.source[i] + share * (view.after[i] - view.source[i]);
    nv.updateGLVolume();
  };

  const setWindow = () => {
    const [, low, high] = view.scene.windows[Number(element("window").value)];
    Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
    nv.updateGLVolume();
  };

  const load = async (scene, version) => {
    while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
    const file = await unpacked(scene.volume);
    view.source = new Int16Array(file.slice(HEADER));
    await nv.loadFromArrayBuffer(file, "scan.nii");
    await nv.loadFromArrayBuffer(await labelFile(scene, version, file.slice(0, HEADER)), "lesions.nii");
    nv.volumes[1].setColormapLabel(colours(nv.volumes[1].img.reduce((most, label) => Math.max(most, label), 1)));
    nv.setIsOrientationTextVisible(scene.oriented);
    const chosen = view.scene && view.scene.windows.map(String).join() === scene.windows.map(String).join() ? element("window").value : 0;
    element("window").replaceChildren(...scene.windows.map(([name, low, high], index) =>
      new Option(`${name} (${Number(low.toPrecision(4))} to ${Number(high.toPrecision(4))})`, index)));
    element("window").value = chosen;
    Object.assign(view, { scene, version, after: version.painted ? await painted(scene, version) : null });
    element("blending").hidden = !version.painted;
    setWindow();
    blend();
    nv.setOpacity(1, Number(element("opacity").value));
  };

  let queue = Promise.resolve(); // one after the other: loading takes a while, and clicks may be faster
  const show = (entry) => (queue = queue.then(async () => {
    document.body.dataset.state = "loading";
    if (view.scene !== entry.scene || view.version !== entry.version) await load(entry.scene, entry.version);
    view.entry = entry;
    for (const other of entries) other.button.setAttribute("aria-current", String(other === entry));
    entry.button.scrollIntoView({ block: "nearest" });
    if (entry.lesion) nv.scene.crosshairPos = nv.mm2frac(entry.lesion.mm);
    nv.drawScene();
    nv.createOnLocationChange();
    document.body.dataset.state = "ready";
  }).catch(fail));

  nv.onLocationChange = (location) => {
    const [value, label] = location.values, point = Array.from(location.mm).slice(0, 3);
    const [slice, row, column] = view.scene.index_of_mm.map(([x, y, z, one]) => Math.round(x * point[0] + y * point[1] + z * point[2] + one));
    const mm = view.scene.oriented ? ` (${point.map((x) => x.toFixed(1)).join(", ")} mm RAS)` : "";
    const where = `slice ${slice}, row ${row}, column ${column}${mm}`;
    const shown = value ? `${Number(value.value.toPrecision(5))} ${view.scene.unit}`.trim() : "";
    const inside = label && label.value > 0 ? `, label ${label.value}` : "";
    const note = view.scene.note ? ` (${view.scene.note})` : "";
    element("status").textContent = `${view.scene.name}${note}, ${view.version.title}: ${where}: ${shown}${inside}`;
  };

  const text = (tag, content, name = "") => Object.assign(document.createElement(tag), { textContent: content, className: name });
  for (const scene of scenes) {
    const heading = text("h2", scene.name);
    if (scene.note) heading.append(" ", text("small", scene.note));
    element("lesions").append(heading);
    for (const version of scene.versions) {
      const lesions = version.lesions.length ? version.lesions : [null];
      element("lesions").append(text("p", version.title, "version"));
      for (const lesion of lesions) {
        const size = lesion && `${lesion.number}: ${lesion.ml} ml, Ø ${lesion.ball_mm} mm`;
        const entry = { scene, version, lesion, button: text("button", size || "no lesion") };
        entry.button.addEventListener("click", () => show(entry));
        entries.push(entry);
        element("lesions").append(entry.button);
      }
    }
  }

  element("blend").addEventListener("input", blend);
  element("window").addEventListener("change", setWindow);
  element("opacity").addEventListener("input", () => nv.setOpacity(1, Number(element("opacity").value)));
  element("planes").addEventListener("change", () => nv.setSliceType(Number(element("planes").value)));
  document.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT") return;
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const next = step && entries[entries.indexOf(view.entry) + step];
    if (next) show(next);
    if (event.key === " ") {
      element("blend").value = Number(element("blend").value) > 0.5 ? 0 : 1;
      blend();
    }
    if (step || event.key === " ") event.preventDefault();
  }, true);
  await show(entries[0]);
})();
