// Light or dark: as the system says, unless somebody has chosen here. A choice that is what the system says is none.
"use strict";

(() => {
  const NAME = "inferd-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function chosen() {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null; // a browser that keeps nothing
    }
  }

  function current() {
    return root.dataset.theme || (system.matches ? "dark" : "light");
  }

  function show() {
    const button = document.getElementById("theme-button");
    if (!button) return;
    button.textContent = current() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${button.textContent.toLowerCase()} colours`);
  }

  function toggle() {
    const wanted = current() === "dark" ? "light" : "dark";
    const isSystems = wanted === (system.matches ? "dark" : "light");
    if (isSystems) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      if (isSystems) localStorage.removeItem(NAME);
      else localStorage.setItem(NAME, wanted);
    } catch {
      // it holds until the page is left
    }
    show();
  }

  const kept = chosen();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme-button").addEventListener("click", toggle);
    system.addEventListener("change", show);
    show();
  });
})();
