// Draws the clip of each <figure class="clip"> as moving skeletons seen from the camera.
document.querySelectorAll("figure.clip").forEach((figure) => {
  const clip = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const points = clip.bodies.flatMap((body) => body.joints.filter((frame, t) => body.present[t]).flat());
  const range = [0, 1].map((axis) => {
    const values = points.map((p) => p[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  function draw(t) {
    const wide = (canvas.width = canvas.clientWidth * devicePixelRatio);
    const high = (canvas.height = canvas.clientHeight * devicePixelRatio);
    const scale = 0.88 * Math.min(wide / (range[0][1] - range[0][0]), high / (range[1][1] - range[1][0]));
    const middle = range.map((r) => (r[0] + r[1]) / 2);
    const at = (p) => [wide / 2 + (p[0] - middle[0]) * scale, high / 2 - (p[1] - middle[1]) * scale];
    clip.bodies.forEach((body, slot) => {
      if (!body.present[t]) return;
      pen.strokeStyle = pen.fillStyle = ["#2471a3", "#d35400"][slot];
      pen.lineWidth = 4 * devicePixelRatio;
      pen.lineCap = "round";
      clip.bones.forEach(([a, b]) => {
        pen.beginPath();
        pen.moveTo(...at(body.joints[t][a]));
        pen.lineTo(...at(body.joints[t][b]));
        pen.stroke();
      });
    });
    canvas.dataset.frame = t;
  }
  let t = 0;
  setInterval(() => draw(t++ % clip.frames), 1000 / clip.fps);
});
