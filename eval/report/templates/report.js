"use strict";
// All players of the page: what they do together, and the keyboard.

const players = [];
const together = document.getElementById("together");

const companions = (player) => (together && together.checked ? players : [player]);

function toggle(player) {
  const play = player.video.paused;
  const start = player.video.ended ? 0 : player.video.currentTime; // an ended video begins again
  if (play) for (const other of companions(player)) if (other !== player) other.setTime(start);
  for (const each of companions(player)) {
    if (!each.video.getAttribute("src")) continue;
    if (play) each.video.play().catch(() => each.showState());
    else each.video.pause();
  }
}

function seek(player, seconds) { for (const each of companions(player)) each.setTime(seconds); }

function setSpeed(player, speed) {
  for (const each of companions(player)) {
    each.find(".speed").value = speed;
    each.video.playbackRate = each.video.defaultPlaybackRate = Number(speed);
  }
}

function showBoxes(player, on) { for (const each of companions(player)) each.showBoxes(on); }

function step(player, direction, oneFrame) {
  const now = (player.frame + 0.001) / player.clip.fps; // a little inside the frame, so that rounding does not fall out of it
  seek(player, Math.max(0, now + direction * (oneFrame ? 1 / player.clip.fps : 1)));
}

// Clocks of two videos part a little: whoever is further than a tenth of a second from the first is put beside it.
setInterval(() => {
  if (!together || !together.checked) return;
  const playing = players.filter(({ video }) => !video.paused && !video.ended && !video.seeking);
  for (const { video } of playing.slice(1)) {
    if (Math.abs(video.currentTime - playing[0].video.currentTime) > 0.1 * Math.max(1, video.playbackRate)) video.currentTime = playing[0].video.currentTime;
  }
}, 500);

let active = null;
document.addEventListener("pointerdown", (event) => {
  const root = event.target.closest(".player");
  if (root) active = players.find((player) => player.root === root) || active;
});
document.addEventListener("keydown", (event) => {
  const player = players.find(({ root }) => root.contains(document.activeElement)) || active || players[0];
  if (!player || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
  const onButton = event.target.closest("button, summary, a");
  if (event.key === " " && !onButton) toggle(player);
  else if (event.key === "ArrowLeft") step(player, -1, event.shiftKey);
  else if (event.key === "ArrowRight") step(player, 1, event.shiftKey);
  else if (event.key === "b" || event.key === "B") showBoxes(player, !player.boxesOn);
  else return;
  event.preventDefault();
});

for (const root of document.querySelectorAll(".player")) players.push(new Player(root));
