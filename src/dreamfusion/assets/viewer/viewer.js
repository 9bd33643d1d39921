// The page's program: shows the GLB embedded in the page, to be seen from anywhere under any light.
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

function direction(azimuth, elevation) {
  return new Vector3().setFromSphericalCoords(1, (90 - elevation) * degrees, azimuth * degrees);
}

// One material of each mode for a mesh: with its texture, or with the colours of its vertices, or plain.
function materialsOf(mesh) {
  const { map = null, color } = mesh.material;
  const painted = { map, color, vertexColors: Boolean(mesh.geometry.attributes.color), side: DoubleSide };
  return {
    shaded: new MeshLambertMaterial(painted),
    albedo: new MeshBasicMaterial(painted),
    textureless: new MeshLambertMaterial({ side: DoubleSide }),
    normals: new MeshNormalMaterial({ side: DoubleSide }),
    wireframe: new MeshBasicMaterial({ ...painted, wireframe: true }),
  };
}

function show(model) {
  const renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true });
  renderer.shadowMap.enabled = true;
  renderer.shadowMap.type = PCFShadowMap;
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));

  const box = new Box3().setFromObject(model);
  const ball = box.getBoundingSphere(new Sphere());
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
  floor.position.set(ball.center.x, box.min.y - 0.002 * ball.radius, ball.center.z);
  floor.receiveShadow = true;
  scene.add(ambient, lamp, lamp.target, floor);

  const camera = new PerspectiveCamera(35, 1, 0.01 * ball.radius, 100 * ball.radius);
  const controls = new OrbitControls(camera, canvas);
  controls.minDistance = 0.5 * ball.radius;
  controls.maxDistance = 20 * ball.radius;

  const draw = () => renderer.render(scene, camera);

  function home() {
    const narrow = Math.min(1, camera.aspect);
    const distance = (1.1 * ball.radius) / Math.sin(camera.fov * degrees / 2) / narrow;
    controls.target.copy(ball.center);
    camera.position.copy(ball.center).addScaledVector(direction(30, 15), distance);
    controls.update();
    draw();
  }

  function resize() {
    const { clientWidth: width, clientHeight: height } = canvas;
    camera.aspect = width / height;
    camera.updateProjectionMatrix();
    renderer.setSize(width, height, false);
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
    for (const mesh of meshes) mesh.material = mesh.userData.materials[mode];
    const fill = Number(element("ambient").value) / 100;
    ambient.intensity = FULL * fill;
    lamp.intensity = FULL * (1 - fill);
    const toLight = direction(Number(element("azimuth").value), Number(element("elevation").value));
    lamp.position.copy(ball.center).addScaledVector(toLight, 4 * ball.radius);
    floor.visible = mode === "shaded" || mode === "textureless";
    element("light").disabled = !floor.visible;
    renderer.setClearColor(new Color(element("background").value), 1);
    for (const input of document.querySelectorAll("input[type=range]")) {
      const unit = input.id === "ambient" ? "%" : "°";
      input.nextElementSibling.value = input.value + unit;
    }
    draw();
  }

  controls.addEventListener("change", draw);
  element("home").addEventListener("click", home);
  element("controls").addEventListener("input", update);
  new ResizeObserver(resize).observe(canvas);
  resize();
  update();
  home();
  message.remove();
  document.body.dataset.ready = "true";
}

try {
  const bytes = Uint8Array.from(atob(element("model").textContent), (c) => c.charCodeAt(0));
  const { scene } = await new GLTFLoader().parseAsync(bytes.buffer, "");
  show(scene);
} catch (error) {
  message.textContent = `The object cannot be shown here: ${error.message}`;
  console.error(error);
}
