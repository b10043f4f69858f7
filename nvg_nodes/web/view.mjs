// The element that a view of a widget is: it goes back where it was when the place that it was moved to is closed.

const TAG = "nvg-view";

/**
 * App mode takes a widget's element out of its node. Front end 1.58 puts it back when App mode is left; 1.35 does not,
 * and the node stayed empty.
 */
class View extends HTMLElement {
  places = [];

  connectedCallback() {
    this.places = [...this.places.filter((place) => place !== this.parentElement), this.parentElement].slice(-3);
  }

  disconnectedCallback() {
    queueMicrotask(() => {
      if (this.isConnected) return; // moved
      const place = this.places.findLast((one) => one.isConnected && !one.childElementCount);
      place?.append(this);
    });
  }
}

if (!customElements.get(TAG)) customElements.define(TAG, View);

/** A new one, with the class that the style sheet knows it by. */
export function viewElement(className) {
  const made = document.createElement(TAG);
  made.className = `nvg-view ${className}`;
  return made;
}
