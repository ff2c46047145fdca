// The field for a key: it is there when the server asks for one, or when somebody wants to give one.

import { changes, currentKey, useKey } from "./api.js";

export function setUpKey() {
  const section = document.getElementById("key");
  const message = document.getElementById("key-message");
  const input = document.getElementById("key-input");
  const button = document.getElementById("key-button");
  const title = document.getElementById("key-title");

  function show(isShown) {
    section.hidden = !isShown;
    button.setAttribute("aria-expanded", String(isShown));
  }

  changes.addEventListener("closed", ({ detail }) => {
    const wasHidden = section.hidden;
    title.textContent = "This server asks for a key";
    message.textContent = detail.message;
    show(true);
    if (wasHidden) input.focus();
  });
  button.addEventListener("click", () => {
    title.textContent = "A key for this server";
    message.textContent = currentKey() ? "One is in use." : "";
    show(section.hidden);
    if (!section.hidden) input.focus();
  });
  document.getElementById("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    message.textContent = "";
    show(false);
    useKey(input.value);
    input.value = "";
  });
  document.getElementById("key-forget").addEventListener("click", () => {
    input.value = "";
    show(false);
    useKey("");
  });
}
