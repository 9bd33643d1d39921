// The page's program: shows the GLB embedded in the page, to be seen from anywhere under any light, or two side by side.
// Bundled into viewer.min.js by build.sh. glTF's world: y up, front +z; azimuth 0 is the front, as everywhere here.

import {
  Box3, Color, DirectionalLight, DoubleSide, HemisphereLight, Mesh, MeshBasicMaterial, MeshLambertMaterial,
  MeshNormalMaterial, PCFShadowMap, PerspectiveCamera, PlaneGeometry, Scene, ShadowMaterial, Sphere, Spherical,
  Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const message = element("message");

const degrees = Math.PI / 180;
// A Lambertian surface sends back 1 / pi of what it gets: lights of strength pi show white as white.
const FULL = Math.PI;
const BACKDROPS = { light: "#d9dce1", dark: "#23272e" };

function direction(azimuth, elevation) {
  return new Vector3().setFromSphericalCoords(1, (90 - elevation) * degrees, azimuth * degrees);
}

// One material of each mode for a mesh: with its texture, or with the colours of its vertices, or plain.
function materialsOf(mesh) {
  const { map = null, normalMap = null, color } = mesh.material;
  const painted = { map, color, vertexColors: Boolean(mesh.geometry.attributes.color), side: DoubleSide };
  return {
    shaded: new MeshLambertMaterial({ ...painted, normalMap }),
    albedo: new MeshBasicMaterial(painted),
    textureless: new MeshLambertMaterial({ normalMap, side: DoubleSide }),
    normals: new MeshNormalMaterial({ normalMap, side: DoubleSide }),
    wireframe: new MeshBasicMaterial({ ...painted, wireframe: true }),
  };
}

// A model on its floor under its lights; all models are seen by one camera, around one ball.
function stage(model, ball) {
  const scene = new Scene();
  scene.add(model);
  const meshes = [];
  model.traverse((node) => {
    if (!node.isMesh) return;
    if (!node.geometry.attributes.normal) node.geometry.computeVertexNormals();
    node.castShadow = node.receiveShadow = true;
    node.userData.materials = materialsOf(node);
    meshes.push(node);
  });
  const ambient = new HemisphereLight("white", "#8d8a88");
  const lamp = new DirectionalLight("white");
  lamp.castShadow = true;
  lamp.target.position.copy(ball.center);
  lamp.shadow.mapSize.set(1024, 1024);
  lamp.shadow.normalBias = 0.02 * ball.radius;
  lamp.shadow.radius = 6;
  const reach = 1.1 * ball.radius;
  const [near, far] = [0.1 * ball.radius, 8 * ball.radius];
  Object.assign(lamp.shadow.camera, { left: -reach, right: reach, bottom: -reach, top: reach, near, far });
  const floor = new Mesh(new PlaneGeometry(40 * ball.radius, 40 * ball.radius), new ShadowMaterial({ opacity: 0.3 }));
  floor.rotation.x = -90 * degrees;
  const lowest = new Box3().setFromObject(model).min.y;
  floor.position.set(ball.center.x, lowest - 0.002 * ball.radius, ball.center.z);
  floor.receiveShadow = true;
  scene.add(ambient, lamp, lamp.target, floor);

  function light({ mode, fill, toLight }) {
    for (const mesh of meshes) mesh.material = mesh.userData.materials[mode];
    ambient.intensity = FULL * fill;
    lamp.intensity = FULL * (1 - fill);
    lamp.position.copy(ball.center).addScaledVector(toLight, 4 * ball.radius);
    floor.visible = mode === "shaded" || mode === "textureless";
  }
  return { scene, light };
}

// Where each object is seen: the canvas beside the panel, in columns, or in rows if it is taller than wide. The last
// column goes on under the panel, so that nothing is cut off at its edge.
function cells(count, width, height) {
  const panel = element("controls").getBoundingClientRect();
  const over = panel.top < canvas.getBoundingClientRect().bottom && panel.left > 0;
  const free = over ? panel.left : width;
  if (count > 1 && height > free) {
    return Array.from({ length: count }, (_, i) => {
      const [top, tall] = [(i * height) / count, height / count];
      return { x: 0, y: top, w: free, h: tall, drawn: width };
    });
  }
  return Array.from({ length: count }, (_, i) => {
    const wide = free / count;
    return { x: i * wide, y: 0, w: wide, h: height, drawn: i === count - 1 ? width - i * wide : wide };
  });
}

function show(models, bytes) {
  const renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true });
  renderer.shadowMap.enabled = true;
  renderer.shadowMap.type = PCFShadowMap;
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
  renderer.autoClear = false;

  const box = models.reduce((all, model) => all.union(new Box3().setFromObject(model)), new Box3());
  const ball = box.getBoundingSphere(new Sphere());
  const stages = models.map((model) => stage(model, ball));
  const camera = new PerspectiveCamera(35, 1, 0.01 * ball.radius, 100 * ball.radius);
  const controls = new OrbitControls(camera, canvas);
  controls.minDistance = 0.5 * ball.radius;
  controls.maxDistance = 20 * ball.radius;
  controls.autoRotateSpeed = 1.5;
  let places = [];

  function draw() {
    renderer.setScissorTest(false);
    renderer.clear();
    renderer.setScissorTest(true);
    const height = canvas.clientHeight;
    stages.forEach(({ scene }, index) => {
      const { x, y, w, h, drawn } = places[index];
      camera.setViewOffset(w, h, 0, 0, drawn, h);
      renderer.setViewport(x, height - y - h, drawn, h);
      renderer.setScissor(x, height - y - h, drawn, h);
      renderer.render(scene, camera);
    });
  }

  function home() {
    const { w, h } = places[0];
    const distance = (1.1 * ball.radius) / Math.sin(camera.fov * degrees / 2) / Math.min(1, w / h);
    controls.target.copy(ball.center);
    camera.position.copy(ball.center).addScaledVector(direction(30, 15), distance);
    controls.update();
    draw();
  }

  function resize() {
    const { clientWidth: width, clientHeight: height } = canvas;
    places = cells(stages.length, width, height);
    renderer.setSize(width, height, false);
    document.querySelectorAll(".label").forEach((label, index) => {
      const { x, y, w, h } = places[index];
      Object.assign(label.style, { left: `${x + w / 2}px`, top: `${y + h}px`, maxWidth: `${w - 16}px` });
    });
    draw();
  }

  function orbit(turn, lift, zoom = 1) {
    const offset = camera.position.clone().sub(controls.target);
    const around = new Spherical().setFromVector3(offset);
    around.theta += turn * degrees;
    around.phi -= lift * degrees;
    around.radius = Math.min(Math.max(around.radius * zoom, controls.minDistance), controls.maxDistance);
    camera.position.copy(controls.target).add(offset.setFromSpherical(around.makeSafe()));
    controls.update();
    draw();
  }

  const keys = {
    ArrowLeft: () => orbit(-10, 0), ArrowRight: () => orbit(10, 0), ArrowUp: () => orbit(0, 10),
    ArrowDown: () => orbit(0, -10), "+": () => orbit(0, 0, 0.9), "=": () => orbit(0, 0, 0.9),
    "-": () => orbit(0, 0, 1.1), Home: home, 0: home,
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  function update() {
    const mode = document.querySelector("input[name=mode]:checked").value;
    const fill = Number(element("ambient").value) / 100;
    const toLight = direction(Number(element("azimuth").value), Number(element("elevation").value));
    for (const { light } of stages) light({ mode, fill, toLight });
    element("light").disabled = mode !== "shaded" && mode !== "textureless";
    renderer.setClearColor(new Color(element("background").value), 1);
    document.body.style.background = element("background").value;
    for (const input of document.querySelectorAll("input[type=range]")) {
      const unit = input.id === "ambient" ? "%" : "°";
      input.nextElementSibling.value = input.value + unit;
    }
    draw();
  }

  // Slow turn: a frame at a time, only while it is on.
  let before = 0;
  function turn(now) {
    if (!controls.autoRotate) return;
    controls.update(Math.min((now - before) / 1000, 0.1));
    before = now;
    requestAnimationFrame(turn);
  }
  element("turn").addEventListener("click", () => {
    controls.autoRotate = !controls.autoRotate;
    element("turn").setAttribute("aria-pressed", controls.autoRotate);
    before = performance.now();
    requestAnimationFrame(turn);
  });

  // The backdrop follows the theme until somebody chooses another.
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  // A page around this one says its theme behind the address: viewer.html#dark. It has a title and a switch itself.
  const asked = () => Object.keys(BACKDROPS).find((name) => location.hash === `#${name}`);
  let chosen = asked() ?? null;
  addEventListener("hashchange", () => {
    chosen = asked() ?? chosen;
    theme();
  });
  function theme() {
    document.documentElement.classList.toggle("framed", asked() !== undefined);
    const name = chosen ?? (prefersDark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = name;
    element("theme").setAttribute("aria-pressed", name === "dark");
    if (Object.values(BACKDROPS).includes(element("background").value)) element("background").value = BACKDROPS[name];
    update();
  }
  prefersDark.addEventListener("change", theme);
  element("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    theme();
  });

  function save(blob, suffix) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${document.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "") || "object"}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  element("download").hidden = models.length > 1; // which of the two?
  element("download").addEventListener("click", () => save(new Blob([bytes], { type: "model/gltf-binary" }), "glb"));
  element("picture").addEventListener("click", () => {
    draw(); // what was drawn before may be gone from the buffer
    canvas.toBlob((blob) => save(blob, "png"));
  });

  controls.addEventListener("change", draw);
  element("home").addEventListener("click", home);
  element("controls").addEventListener("input", update);
  resize();
  theme();
  home();
  new ResizeObserver(resize).observe(canvas);
  message.remove();
  document.body.dataset.ready = "true";
}

function bytesOf(id) {
  return Uint8Array.from(atob(element(id).textContent), (c) => c.charCodeAt(0));
}

try {
  const loader = new GLTFLoader();
  const bytes = bytesOf("model");
  const models = [await loader.parseAsync(bytes.buffer, "")];
  if (element("other").textContent) models.push(await loader.parseAsync(bytesOf("other").buffer, ""));
  show(models.map(({ scene }) => scene), bytes);
} catch (error) {
  message.textContent = `The object cannot be shown here: ${error.message}`;
  console.error(error);
}
