"use strict";
(() => {
  const tip = document.getElementById("tip");
  const NS = "http://www.w3.org/2000/svg";
  const hide = (svg, cross) => { tip.hidden = true; cross.remove(); };

  for (const svg of document.querySelectorAll("svg[data-hints]")) {
    let hints = null;
    const cross = document.createElementNS(NS, "line");
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", 16);
    cross.setAttribute("y2", 290);
    svg.addEventListener("pointerleave", () => hide(svg, cross));
    svg.addEventListener("pointermove", (event) => {
      hints = hints || JSON.parse(svg.dataset.hints);
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      let best = hints[0];
      for (const hint of hints) if (Math.abs(hint.x - x) < Math.abs(best.x - x)) best = hint;
      cross.setAttribute("x1", best.x);
      cross.setAttribute("x2", best.x);
      svg.appendChild(cross);
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = best.t;
      tip.appendChild(head);
      for (const [name, value] of best.r) {
        const row = document.createElement("span");
        for (const text of [name, value]) {
          const part = document.createElement("i");
          part.style.fontStyle = "normal";
          part.textContent = text;
          row.appendChild(part);
        }
        tip.appendChild(row);
      }
      tip.hidden = false;
      const left = event.clientX + 18 + tip.offsetWidth > innerWidth ? event.clientX - 18 - tip.offsetWidth : event.clientX + 18;
      const top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8);
      tip.style.left = Math.max(4, left) + "px";
      tip.style.top = Math.max(4, top) + "px";
    });
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.title = "show or hide";
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      const dashed = button.querySelector(".dashed") !== null;
      for (const shape of button.closest("figure").querySelectorAll(`[data-s="${button.dataset.t}"]`)) {
        if (shape.classList.contains("dot") || shape.classList.contains("dashed") === dashed) shape.classList.toggle("off", !on);
      }
    });
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "copied";
    });
  }

  for (const button of document.querySelectorAll("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const text = document.getElementById(button.dataset.save).textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = button.dataset.name;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });
})();
