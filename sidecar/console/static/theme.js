// Loaded in <head>, before anything is drawn, so that a chosen theme does not flash.
"use strict";
document.documentElement.classList.add("js");
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage may be forbidden; the system's theme applies then */ }
