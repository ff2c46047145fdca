// Pictures as a server draws them: { image: base64, content_type, latent, label, ... }.

import { h, fill } from "./dom.js";

export function addressOfPicture({ image, content_type: type }) {
  return `data:${type};base64,${image}`;
}

/** A picture to look at. */
export function shown(picture) {
  return h("img", { class: "pixels", src: addressOfPicture(picture), alt: picture.label ? `A drawn picture: ${picture.label}` : "A drawn picture" });
}

/** A picture to choose. */
export function pictureButton(picture, choose) {
  return h("button", { type: "button", class: "picture", "aria-pressed": "false", onclick: ({ currentTarget }) => choose(picture, currentTarget) }, shown(picture));
}

/** A picture as a file. */
export function fileOf({ image, content_type: type }) {
  return new Blob([Uint8Array.from(atob(image), (sign) => sign.charCodeAt(0))], { type });
}

/**
 * A place that takes the picture that is looked at when it is pressed.
 * @param {string} name of the place.
 * @param {() => object} current the picture that is looked at, if there is one.
 * @param {(picture: object) => boolean} fits whether it can stand there.
 */
export function slot(name, current, fits) {
  const holder = h("span", { class: "holder", "aria-hidden": "true" }, "+");
  const element = h("button", { type: "button", class: "slot", "aria-label": `Place ${name}, empty`, onclick: put }, h("span", { class: "slot-name", "aria-hidden": "true" }, name), holder);
  const place = {
    element,
    picture: null,
  };

  function put() {
    const picture = current();
    if (!picture) return;
    if (!fits(picture)) {
      element.setAttribute("aria-label", `Place ${name}: a sum of several classes can't stand here`);
      fill(holder, "no");
      place.picture = null;
      return;
    }
    place.picture = picture;
    element.setAttribute("aria-label", `Place ${name}: ${picture.label ?? "a picture"}`);
    fill(holder, h("img", { class: "pixels", src: addressOfPicture(picture), alt: "" }));
  }

  return place;
}
