"use strict";
const gallery = document.getElementById("gallery");
const filters = ["class", "cluster", "before", "after"].map((name) => document.getElementById("by-" + name));

function filterImages() {
  const [ofClass, cluster, before, after] = filters.map((select) => select.value);
  let count = 0;
  for (const group of gallery.querySelectorAll(".group")) {
    const inside = (!ofClass || group.dataset.class === ofClass) && (!cluster || group.dataset.key === cluster);
    let shown = 0;
    for (const card of group.querySelectorAll(".card")) {
      const keep = inside && (!before || card.dataset.before === before) && (!after || card.dataset.after === after);
      card.hidden = !keep;
      shown += keep;
    }
    group.hidden = !shown;
    count += shown;
  }
  document.getElementById("shown").textContent = count === 1 ? "1 image" : count + " images";
}

filters.forEach((select) => select.addEventListener("change", filterImages));
document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("opacity").addEventListener("input", (event) => {
  gallery.style.setProperty("--opacity", event.target.value / 100);
});
document.getElementById("evidence").addEventListener("change", (event) => {
  gallery.dataset.evidence = event.target.value;
});

/* Clusters that are merged into each other, directly or through others, form one list. */
function mergedClusters(pairs) {
  const lists = [];
  for (const pair of pairs) {
    const touched = lists.filter((list) => list.some((cluster) => pair.includes(cluster)));
    const joined = [...new Set([...touched.flat(), ...pair])].sort((a, b) => a - b);
    lists.splice(0, lists.length, ...lists.filter((list) => !touched.includes(list)), joined);
  }
  return lists;
}

function choices() {
  const pairs = [], drop = [], rename = {};
  for (const article of document.querySelectorAll(".cluster")) {
    const cluster = Number(article.dataset.cluster);
    const name = article.querySelector(".rename").value.trim();
    const into = article.querySelector(".merge").value;
    if (into) pairs.push([cluster, Number(into)]);
    if (article.querySelector(".drop").checked) drop.push(cluster);
    if (name) rename[cluster] = name;
  }
  /* The labeler refuses to merge a cluster that is dropped. */
  const kept = pairs.filter((pair) => !pair.some((cluster) => drop.includes(cluster)));
  return { merge: mergedClusters(kept), drop, rename };
}

const button = document.getElementById("export");
if (button) {
  button.addEventListener("click", () => {
    const chosen = choices(), text = JSON.stringify(chosen, null, 1);
    /* The labeler refuses that, too. */
    const noneLeft = chosen.drop.length === document.querySelectorAll(".cluster").length;
    const shown = document.getElementById("choices");
    shown.textContent = noneLeft ? "All clusters are dropped. Keep at least one, then save." : text;
    shown.hidden = false;
    if (noneLeft) return;
    const link = document.createElement("a");
    link.href = "data:application/json," + encodeURIComponent(text);
    link.download = "choices.json";
    link.click();
  });
}
