// The element that a view of a widget is: it goes back where it was when the place that it was moved to is closed.

const TAG = "nvg-view";

/**
 * App mode takes a widget's element out of its node. Front end 1.58 puts it back when App mode is left; 1.35 does not,
 * and the node stayed empty. When a workflow is opened or a change undone in App mode, 1.49 and 1.58 put the element
 * there, and a moment later into the graph, which is hidden: App mode showed a blank.
 */
class View extends HTMLElement {
  places = [];

  connectedCallback() {
    const before = this.places.filter((place) => place !== this.parentElement);
    this.places = [...before, this.parentElement].slice(-3);
    if (before.length) queueMicrotask(() => isSeen(this) || this.goTo(before, isSeen)); // once the host is done
  }

  disconnectedCallback() {
    queueMicrotask(() => this.isConnected || this.goTo(this.places)); // or else it is moved
  }

  /** To the last of the places that is free. */
  goTo(places, isGood = () => true) {
    places.findLast((one) => one.isConnected && !one.childElementCount && isGood(one))?.append(this);
  }
}

/** Whether an element has a place on the page, in sight or scrolled out of it. */
function isSeen(element) {
  return element.getClientRects().length > 0;
}

if (!customElements.get(TAG)) customElements.define(TAG, View);

/** A new one, with the class that the style sheet knows it by. */
export function viewElement(className) {
  const made = document.createElement(TAG);
  made.className = `nvg-view ${className}`;
  return made;
}
